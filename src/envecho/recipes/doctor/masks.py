"""Checks of the masks: what is selected and should not be, what should be and is not, and what windows cut off."""

from __future__ import annotations

from typing import final

import numpy as np
from numpy.typing import NDArray

from envecho.recipes.doctor.episode import Episode, Settings, target_text
from envecho.recipes.doctor.findings import Findings
from envecho.tokens import ChatTokenizer, TokenizedTrajectory
from envecho.tokens.view import joint_texts
from envecho.trajectory import Message, Role, Source


@final
class MaskCheck:
    """Empty masks, selected prompts, trained graders, observations with two owners, tokens over borders, windows."""

    def __init__(self, settings: Settings, findings: Findings) -> None:
        self._settings, self._findings = settings, findings
        self._num_targets = self._num_rendered = self._num_windows = self._num_unaligned = 0
        self._num_actions = self._num_cut_actions = 0

    def see(self, episode: Episode) -> None:
        """Look at one episode."""
        messages = episode.trajectory.messages
        sources = self._settings.sources
        observed = [place for place, message in enumerate(messages) if target_text(message, sources).strip()]
        if not observed:
            self._findings.add("no_observation")
        if not episode.sequences:
            return
        self._num_rendered += 1
        self._num_targets += episode.num_targets
        if observed and not episode.num_targets:
            place = observed[0]
            self._findings.add("empty_mask", turn=place, text=target_text(messages[place], sources))
        self._selected(episode)
        self._owners(episode)
        self._windows(episode)
        self._borders(episode)

    def _selected(self, episode: Episode) -> None:
        for sequence, mask in zip(episode.sequences, episode.targets, strict=True):
            early = mask & (sequence.turns < episode.first_answer)
            if early.any():
                self._add("prompt_selected", sequence, early)
            graded = mask & sequence.source_mask(Source.GRADER)
            if graded.any():
                self._add("grader_trained", sequence, graded)

    def _add(self, name: str, sequence: TokenizedTrajectory, mask: NDArray[np.bool_]) -> None:
        """Note a finding of some tokens, with what the first run of them says."""
        places = np.flatnonzero(mask)
        turn = int(sequence.turns[places[0]])
        first = places[sequence.turns[places] == turn]
        text = "".join(joint_texts(self._settings.tokenizer, sequence.token_ids[first]))
        shown = repr(text) if name == "straddling_tokens" else text
        self._findings.add(name, turn=turn, text=shown, num_tokens=len(places))

    def _owners(self, episode: Episode) -> None:
        """Windows of one branch own disjoint tokens; two branches must not own one observation."""
        owners: dict[int, int] = {}
        for sequence, mask in zip(episode.sequences, episode.targets, strict=True):
            for turn in np.unique(sequence.turns[mask]):
                owner = owners.setdefault(int(turn), sequence.branch)
                if owner != sequence.branch:
                    self._add("duplicate_over_branches", sequence, mask & (sequence.turns == turn))

    def _windows(self, episode: Episode) -> None:
        for sequence in episode.sequences:
            actions = sequence.action_mask & sequence.owned_mask()
            self._num_actions += int(actions.sum())
            if sequence.window == 0:
                continue
            cut = int(actions.sum()) if sequence.context_truncated else 0
            self._num_cut_actions += cut
            self._num_windows += 1
            owned = int(sequence.owned_mask().sum())
            self._findings.add("overlong", turn=int(sequence.turns[sequence.owned_from]), num_tokens=owned)

    def _borders(self, episode: Episode) -> None:
        for sequence in episode.sequences:
            owned = np.unique(sequence.turns[sequence.owned_mask()])
            for turn in owned[owned >= 0]:
                message = episode.trajectory.messages[turn]
                if not any(segment.source.role is Role.ENV_OUTPUT for segment in message.segments):
                    continue
                lost = lost_at_borders(message, int(turn), sequence, self._settings.tokenizer)
                if lost is None:
                    self._num_unaligned += 1
                elif len(lost):
                    mask = np.zeros(len(sequence), dtype=np.bool_)
                    mask[lost] = True
                    self._add("straddling_tokens", sequence, mask)

    def conclude(self) -> None:
        """Say what the whole file shows."""
        if self._num_rendered and not self._num_targets:
            target = self._settings.objective.world_loss_target
            detail = f"world_loss_target = {target!r} selects none of the tokens of {self._num_rendered:,} trajectories"
            self._findings.state("no_target_in_file", detail, num_trajectories=self._num_rendered)
        if self._num_windows:
            share = self._num_cut_actions / self._num_actions if self._num_actions else 0.0
            detail = (
                f"{self._num_windows:,} more windows of at most {self._settings.max_tokens:,} tokens;"
                f" {share:.1%} of the action tokens lack context that they were written with"
            )
            self._findings.state("overlong", detail)
        if self._findings.count("straddling_tokens"):
            detail = f"beside {self._num_targets:,} targets"
            if self._num_unaligned:
                detail += f"; {self._num_unaligned:,} observations were not found among their tokens"
            self._findings.state("straddling_tokens", detail)


def lost_at_borders(
    message: Message, turn: int, sequence: TokenizedTrajectory, tokenizer: ChatTokenizer
) -> NDArray[np.int64] | None:
    """Return the places of tokens that hold a character of the world's words and belong to somebody else.

    None where the content is not among the bytes of its tokens (a template that escapes it, or a window that cuts it).

    Example: the tokens of `42` and the newline that the template adds are `4`, `2\\n`: the second is lost.
    """
    places = np.flatnonzero(sequence.turns == turn)
    pieces = [tokenizer.token_bytes(int(token_id)) for token_id in sequence.token_ids[places]]
    said = b"".join(pieces)
    shown = message.content
    start, lead = said.find(shown.encode(errors="replace")), 0
    if start < 0:
        # A template that trims contents shows them without the white space at their ends.
        lead = len(shown) - len(shown.lstrip())
        shown = shown.strip()
        start = said.find(shown.encode(errors="replace"))
    if start < 0 or not shown:
        return None
    of_world = np.zeros(len(said), dtype=np.bool_)
    at = start - len(message.content[:lead].encode(errors="replace"))
    for segment in message.segments:
        length = len(segment.text.encode(errors="replace"))
        if segment.source.role is Role.ENV_OUTPUT:
            of_world[max(at, start) : max(at + length, 0)] = True
        at += length
    of_world[start + len(shown.encode(errors="replace")) :] = False
    ends = np.cumsum([len(piece) for piece in pieces])
    others = np.flatnonzero(~sequence.obs_mask[places])
    lost = [k for k in others if of_world[ends[k] - len(pieces[k]) : ends[k]].any()]
    return places[lost].astype(np.int64)
