"""Small environments with the actions and observations of OpenEnv's known ones.

The originals are not in the openenv package; the fields here are those of their models, what they do is made up.
"""

from __future__ import annotations

import time
from typing import Any

from openenv.core.env_server.interfaces import Environment
from openenv.core.env_server.types import Action, Observation, State
from pydantic import BaseModel, Field

EVENTS: list[tuple[str, str]] = []
"""What the environments saw, in order: (episode id, event)."""


class Shape(Environment):
    """What all of them share: a state, many sessions, and a note of their end."""

    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self) -> None:
        super().__init__()
        self._state = State()

    def begin(self, episode_id: str | None) -> None:
        self._state = State(episode_id=episode_id or "none", step_count=0)
        self.note("reset")

    def note(self, event: str) -> None:
        EVENTS.append((str(self._state.episode_id), event))

    @property
    def state(self) -> State:
        return self._state

    def close(self) -> None:
        self.note("closed")


# --- coding -----------------------------------------------------------------------------------------------------


class CodeAction(Action):
    code: str


class CodeObservation(Observation):
    stdout: str = ""
    stderr: str = ""
    exit_code: int = 0


class Coding(Shape):
    """Answers to a few words stand for programs; `reset` takes nothing, as that of the original."""

    def reset(self) -> CodeObservation:  # type: ignore[override]
        self.begin(None)
        return CodeObservation()

    def step(self, action: CodeAction, timeout_s: float | None = None, **_: Any) -> CodeObservation:
        word, _space, rest = action.code.partition(" ")
        if word == "sleep":
            time.sleep(float(rest))
        if word == "raise":
            raise ValueError(f"the environment broke: {rest}")
        if word == "fail":
            return CodeObservation(stdout="started", stderr=f"NameError: {rest}\n", exit_code=1, reward=-0.2)
        if word == "repeat":
            return CodeObservation(stdout="x" * int(rest))
        return CodeObservation(stdout=f"ran {action.code!r}\n", reward=0.1, metadata={"last_code": action.code})


# --- tbench2 ----------------------------------------------------------------------------------------------------


class TerminalAction(Action):
    action_type: str = "exec"
    command: str = ""
    session_id: str | None = None
    block: bool = True
    wait_seconds: float | None = None
    file_path: str = ""
    content: str = ""


class TerminalObservation(Observation):
    instruction: str = ""
    output: str = ""
    success: bool = True
    error: str = ""
    task_id: str = ""
    task_path: str = ""
    session_id: str | None = None
    action_type: str = ""
    info: dict = Field(default_factory=dict)


class Terminal(Shape):
    """The reward comes with `evaluate` alone; `solve` earns it."""

    def reset(self, seed: int | None = None, episode_id: str | None = None, **kwargs: Any) -> TerminalObservation:
        self.begin(episode_id)
        self._task, self._solved = str(kwargs.get("task_id", "default-task")), False
        return self._told(action_type="reset", reward=0.0)

    def step(self, action: TerminalAction, timeout_s: float | None = None, **_: Any) -> TerminalObservation:
        self.note(action.action_type)
        if action.action_type == "evaluate":
            info = {"tests_passed": self._solved, "exit_code": int(not self._solved)}
            return self._told(output="2 passed in 0.1s", info=info, reward=float(self._solved), done=True)
        if action.action_type == "close":
            return self._told(output="Closed.", done=True)
        if action.action_type == "write_file":
            return self._told(output=f"Wrote content to {action.file_path}")
        self._solved |= action.command == "solve"
        return self._told(output=f"$ {action.command}\nok\n", action_type="exec")

    def _told(self, **fields: Any) -> TerminalObservation:
        return TerminalObservation(instruction="Make it work.", task_id=self._task, **fields)


# --- git, REPL, reasoning gym -------------------------------------------------------------------------------------


class GitAction(Action):
    action_type: str = "list_repos"
    repo_name: str = ""
    target_dir: str | None = None
    command: str = ""
    working_dir: str = ""


class GitObservation(Observation):
    success: bool = False
    message: str = ""
    output: str = ""
    error: str = ""
    repos: list[dict[str, str]] = Field(default_factory=list)


class Git(Shape):
    def reset(self, task_id: str | None = None) -> GitObservation:  # type: ignore[override]
        self.begin(None)
        if task_id == "broken":
            return GitObservation(success=False, message="Failed to reset", error="no such commit")
        return GitObservation(success=True, message="Git task environment ready.", output=f"Task: {task_id}")

    def step(self, action: GitAction, timeout_s: float | None = None, **_: Any) -> GitObservation:
        if action.action_type == "execute_git_command":
            return GitObservation(success=False, message="Git command failed", output="", error=f"no {action.command}")
        return GitObservation(success=True, message="Found 1 repositories", output="  - a", repos=[{"name": "a"}])


class ReplAction(Action):
    code: str = ""
    is_final: bool = False
    final_answer: str | None = None


class CodeBlockResult(BaseModel):
    stdout: str = ""
    stderr: str = ""
    locals_snapshot: dict[str, str] = Field(default_factory=dict)
    execution_time: float = 0.0
    success: bool = True
    exception: str | None = None


class ReplObservation(Observation):
    result: CodeBlockResult = Field(default_factory=CodeBlockResult)
    context_preview: str | None = None
    context_length: int = 0
    available_variables: list[str] = Field(default_factory=list)
    iteration: int = 0
    max_iterations: int = 30


class Repl(Shape):
    def reset(
        self, seed: int | None = None, episode_id: str | None = None, context: str = "", **kwargs: Any
    ) -> ReplObservation:
        self.begin(episode_id)
        self._expected = kwargs.get("expected_answer")
        result = CodeBlockResult(stdout=f"REPL environment initialized.\nTask: {kwargs.get('task_prompt', '')}")
        return ReplObservation(result=result, context_preview=context, context_length=len(context))

    def step(self, action: ReplAction, timeout_s: float | None = None, **_: Any) -> ReplObservation:
        if action.is_final:
            result = CodeBlockResult(stdout="Final answer submitted.")
            reward = float(action.final_answer == self._expected)
            return ReplObservation(result=result, done=True, reward=reward, metadata={"final_answer": "secret"})
        if action.code == "last":
            result = CodeBlockResult(stdout="Maximum iterations (30) reached.")
            return ReplObservation(result=result, done=True, reward=-0.1)
        stderr = "Traceback\nNameError" if action.code == "oops" else ""
        result = CodeBlockResult(stdout=f"{action.code}\n", stderr=stderr, locals_snapshot={"x": "1"})
        return ReplObservation(result=result, context_preview="the context", iteration=1, available_variables=["x"])


class ReasoningAction(Action):
    answer: str


class ReasoningObservation(Observation):
    question: str | None = None
    score: float | None = None
    correct_answer: str | None = None
    dataset_metadata: dict[str, Any] | None = None


class Reasoning(Shape):
    """Without a name of a data set every session asks the same question, as the original does."""

    def reset(  # type: ignore[override]
        self, dataset_name: str | None = None, seed: int | None = None, size: int | None = None
    ) -> ReasoningObservation:
        self.begin(None)
        self._legs = 42 if dataset_name is None else 4 * (int(seed or 0) % 1000 + 1)
        return ReasoningObservation(question=f"How many legs have {self._legs // 4} dogs?", reward=0.0)

    def step(self, action: ReasoningAction, timeout_s: float | None = None, **_: Any) -> ReasoningObservation:
        score = float(action.answer == str(self._legs))
        told = {"legs": self._legs}
        return ReasoningObservation(
            score=score, correct_answer=f"correct={self._legs}", dataset_metadata=told, reward=score, done=True
        )


# --- chat and textarena -------------------------------------------------------------------------------------------


class ChatAction(Action):
    tokens: list[int] = Field(min_length=1)


class ChatObservation(Observation):
    messages: list[dict[str, str]] = Field(default_factory=list)
    tokens: list[int] = Field(default_factory=list)


class Chat(Shape):
    """Tokens go into the history as their number; a user answers each."""

    def reset(self) -> ChatObservation:  # type: ignore[override]
        self.begin(None)
        self._messages = [{"role": "system", "content": "Be brief."}]
        return ChatObservation(messages=list(self._messages))

    def step(self, action: ChatAction, timeout_s: float | None = None, **_: Any) -> ChatObservation:
        self._messages.append({"role": "assistant", "content": f"{len(action.tokens)} tokens"})
        self._messages.append({"role": "user", "content": "And then?"})
        return ChatObservation(messages=list(self._messages), tokens=action.tokens)


class GameAction(Action):
    message: str


class GameMessage(BaseModel):
    sender_id: int
    content: str
    category: str


class GameObservation(Observation):
    prompt: str
    messages: list[GameMessage] = Field(default_factory=list)
    current_player_id: int = 0
    legal_players: list[int] = Field(default_factory=list)
    info: dict[str, Any] = Field(default_factory=dict)


class Game(Shape):
    """The whole game so far stands in one growing message, as the original's wrapper makes it."""

    def reset(self, seed: int | None = None, episode_id: str | None = None, **_: Any) -> GameObservation:
        self.begin(episode_id)
        self._story = "[GAME] Guess the word.\n"
        return self._told()

    def step(self, action: GameAction, timeout_s: float | None = None, **_: Any) -> GameObservation:
        self._story += f"[Player 0] {action.message}\n[GAME] {action.message}: G X X\n"
        right = action.message == "[crane]"
        return self._told(done=right, reward=float(right))

    def _told(self, **fields: Any) -> GameObservation:
        messages = [GameMessage(sender_id=-1, content=self._story, category="MESSAGE")]
        info = {"reward_signals": {"wordle.correct": 1.0}}
        return GameObservation(prompt="Guess the word.", messages=messages, info=info, **fields)
