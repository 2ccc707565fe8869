"""`CachedSession`: what it samples is what a plain forward pass over the whole history says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from batches import SIZES
from transformers import GPT2Config, GPT2LMHeadModel, MistralConfig, MistralForCausalLM

from envecho.engines import prefill
from envecho.engines.local import LocalEngine
from envecho.engines.row_cache import RowCache
from envecho.errors import EngineError
from envecho.seam import SamplingParams, ScoreRequest, TurnRequest

STOP = 7


@pytest.fixture(scope="module")
def engine(tiny_llama):
    return LocalEngine(tiny_llama, compute_dtype="float64", device="cpu", seed=5)


def history(seed: int, length: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(8, 61, length).astype(np.int32)


def require_true_logprobs(engine, prompt, sample, temperature):
    """Log-probs and entropies of a sampled turn are those of plain scoring of prompt and turn."""
    ids = np.concatenate([prompt, sample.token_ids])
    read = np.arange(len(ids)) >= len(prompt)
    (scores,) = engine.logprobs([ScoreRequest(token_ids=ids, read=read)], temperature=temperature, with_entropies=True)
    np.testing.assert_allclose(sample.logprobs, scores.logprobs[read], atol=2e-6)
    np.testing.assert_allclose(sample.entropies, scores.entropies[read], atol=2e-6)


def test_ragged_episodes_over_turns_are_scored_as_their_whole_histories(engine):
    """Catches wrong positions or masks behind padding and holes: log-probs of another text than the one kept."""
    params = SamplingParams(max_tokens=6, temperature=0.7, seed=1, stop_token_ids=(STOP,))
    prompts = {row: history(row, length) for row, length in enumerate((3, 11, 7, 1))}
    with engine.sampling_session() as session:
        for turn in range(4):
            requests = [TurnRequest(row=row, prompt=prompt, key=(0, row, turn)) for row, prompt in prompts.items()]
            for request, sample in zip(requests, session.sample(requests, params), strict=True):
                require_true_logprobs(engine, request.prompt, sample, 0.7)
                answer = history(100 * turn + request.row, 1 + (request.row * 5 + turn) % 9)
                prompts[request.row] = np.concatenate([request.prompt, sample.token_ids, answer])
            if turn == 1:
                session.drop(1)
                del prompts[1]


def test_a_history_that_is_written_anew_is_computed_anew_from_where_it_differs(engine):
    """Catches a cache that goes on behind tokens that are no longer there (a template that drops earlier thinking)."""
    params = SamplingParams(max_tokens=4, seed=1)
    first = [history(1, 12), history(2, 5)]
    with engine.sampling_session() as session:
        session.sample([TurnRequest(row=r, prompt=p, key=(r,)) for r, p in enumerate(first)], params)
        changed = [np.concatenate([first[0][:4], history(9, 3)]), np.concatenate([first[1], history(8, 20)])]
        for _ in range(3):  # thrice, so that the holes are packed
            requests = [TurnRequest(row=r, prompt=p, key=(r, 1)) for r, p in enumerate(changed)]
            for request, sample in zip(requests, session.sample(requests, params), strict=True):
                require_true_logprobs(engine, request.prompt, sample, 1.0)
            changed = [changed[0][:3], changed[1][:2]]
            changed = [np.concatenate([one, history(7, 4)]) for one in changed]


def test_a_draw_depends_on_its_key_and_not_on_its_neighbours(engine):
    """Catches one generator for the whole batch: a rollout could not be repeated once another one is gone."""
    params = SamplingParams(max_tokens=8, temperature=1.3, seed=3)
    requests = [TurnRequest(row=row, prompt=history(row, 5 + row), key=(4, row)) for row in range(4)]
    with engine.sampling_session() as session:
        together = session.sample(requests, params)
    for request, expected in zip(requests, together, strict=True):
        with engine.sampling_session() as session:
            (alone,) = session.sample([request], params)
        np.testing.assert_array_equal(alone.token_ids, expected.token_ids)
    with engine.sampling_session() as session:
        (other,) = session.sample([TurnRequest(row=0, prompt=requests[0].prompt, key=(5, 0))], params)
    assert other.token_ids.tolist() != together[0].token_ids.tolist()


def test_draws_follow_the_distribution(engine):
    """Catches a draw that is biased: frequencies of 4,000 first tokens against the model's own probabilities."""
    prompt = history(0, 6)
    params = SamplingParams(max_tokens=1, temperature=0.5, seed=0)
    counts = np.zeros(engine._model.head_weight.shape[0])
    for block in range(4):
        requests = [TurnRequest(row=row, prompt=prompt, key=(block, row)) for row in range(1000)]
        with engine.sampling_session() as session:
            for sample in session.sample(requests, params):
                counts[sample.token_ids[0]] += 1
    with torch.no_grad():
        hidden = engine._model.hidden(torch.from_numpy(prompt.astype(np.int64))[None])
        expected = torch.softmax(engine._model.logits(hidden[:, -1]) / 0.5, -1)[0].double().numpy()
    top = np.argsort(-expected)[:5]
    np.testing.assert_allclose(counts[top] / 4000, expected[top], atol=4 * np.sqrt(0.25 / 4000))


def test_an_early_leaver_stops_at_its_stop_token_and_the_others_go_on(engine):
    """Catches tokens after the stop token, and a row that ends because another one did."""
    params = SamplingParams(max_tokens=40, temperature=2.0, seed=2, stop_token_ids=tuple(range(0, 20)))
    requests = [TurnRequest(row=row, prompt=history(row, 4), key=(row,)) for row in range(6)]
    with engine.sampling_session() as session:
        samples = session.sample(requests, params)
    assert len({len(sample.token_ids) for sample in samples}) > 1
    for sample in samples:
        inside = np.isin(sample.token_ids, params.stop_token_ids)
        assert not inside[:-1].any()
        assert inside[-1] or len(sample.token_ids) == 40
        assert sample.stopped == bool(inside[-1])


def test_temperature_zero_is_greedy(engine):
    """Catches a temperature of 0 that divides, or draws."""
    request = TurnRequest(row=0, prompt=history(3, 6), key=(0,))
    with engine.sampling_session() as session:
        (sample,) = session.sample([request], SamplingParams(max_tokens=5, temperature=0.0))
    ids = request.prompt
    for token in sample.token_ids:
        with torch.no_grad():
            hidden = engine._model.hidden(torch.from_numpy(ids.astype(np.int64))[None])
            assert int(engine._model.logits(hidden[:, -1]).argmax()) == token
        ids = np.append(ids, token)


@pytest.mark.parametrize(
    ("requests", "message"),
    [
        ([TurnRequest(row=0, prompt=history(0, 0), key=())], "do not fit"),
        ([TurnRequest(row=0, prompt=history(0, 3), key=())] * 2, "twice"),
    ],
)
def test_a_wrong_request_is_refused(engine, requests, message):
    """Catches an empty prompt that crashes deep in the model, and two turns of one episode at once."""
    with engine.sampling_session() as session, pytest.raises(EngineError, match=message):
        session.sample(requests, SamplingParams(max_tokens=2))


def play(session, prompts, turns, params, *, seed):
    """Name random rows each turn; yield request and sample, and go on with an answer behind each."""
    draw = np.random.default_rng(seed)
    for turn in range(turns):
        rows = draw.permutation(sorted(prompts))[: draw.integers(1, len(prompts) + 1)].tolist()
        requests = [TurnRequest(row=row, prompt=prompts[row], key=(row, turn)) for row in rows]
        for request, sample in zip(requests, session.sample(requests, params), strict=True):
            yield request, sample
            answer = draw.integers(8, 61, draw.integers(1, 4)).astype(np.int32)
            prompts[request.row] = np.concatenate([request.prompt, sample.token_ids, answer])


@pytest.fixture
def fed(monkeypatch):
    """How many tokens each run of a cache computed for its rows, padding not counted."""
    counts, settle = [], RowCache.settle

    def counting(cache, places, tokens):
        counts.append(sum(len(new) for new in tokens))
        settle(cache, places, tokens)

    monkeypatch.setattr(RowCache, "settle", counting)
    return counts


@pytest.mark.parametrize("architecture", ["tiny_llama", "tiny_qwen3"])
def test_rows_named_in_any_order_are_computed_once_and_scored_as_their_histories(architecture, request, fed):
    """Catches a row that is read anew because a turn did not name it, or that comes back with another row's cache."""
    engine = LocalEngine(request.getfixturevalue(architecture), compute_dtype="float64", device="cpu")
    params = SamplingParams(max_tokens=3, temperature=0.9, seed=1, stop_token_ids=(STOP,))
    prompts = {row: history(row, length) for row, length in enumerate((3, 11, 7, 1, 5))}
    with engine.sampling_session() as session:
        seen = {}
        for asked, sample in play(session, prompts, 14, params, seed=3):
            require_true_logprobs(engine, asked.prompt, sample, 0.9)
            # The last sampled token is read with the next prompt.
            seen[asked.row] = len(asked.prompt) + len(sample.token_ids) - 1
        assert len(seen) == 5
        assert sum(fed) == sum(seen.values()) == session.num_cached_tokens


def test_what_a_session_holds_is_the_histories_of_the_rows_that_live(engine):
    """Catches a cache that grows with every episode ever seen, and a parked row that keeps its whole batch alive."""
    params = SamplingParams(max_tokens=2, seed=1)
    with engine.sampling_session() as session:
        first = [TurnRequest(row=row, prompt=history(row, 5 + 7 * row), key=(row,)) for row in range(4)]
        session.sample(first, params)
        session.sample([TurnRequest(row=9, prompt=history(9, 4), key=(9,))], params)
        assert session.num_cached_tokens == sum(len(asked.prompt) + 1 for asked in first) + 5
        for row, parked in session._parked.items():
            for tensor in (part for layer in parked.layers for part in layer):
                assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
                assert tensor.shape[1] == len(first[row].prompt) + 1
        session.drop(2)
        session.drop(9)
        session.drop(77)  # never there
        assert session.num_cached_tokens == sum(len(first[row].prompt) + 1 for row in (0, 1, 3))
        for row in (0, 1, 3):
            session.drop(row)
        assert session.num_cached_tokens == 0
        (sample,) = session.sample(first[2:3], params)
        require_true_logprobs(engine, first[2].prompt, sample, 1.0)


def test_a_row_that_leaves_the_batch_takes_its_bits_along(engine):
    """Catches a cache that is written anew or rounded on its way out of the batch."""
    params = SamplingParams(max_tokens=4, seed=1)
    one, other = (TurnRequest(row=row, prompt=history(row, 6), key=(row,)) for row in (0, 1))
    with engine.sampling_session() as session:
        session.sample([one, other], params)
        before = session._batch.copy_of(0, 9)
        session.sample([other], params)
        after = session._parked[0]
        assert len(before.layers) == 2
        for layer, expected in zip(after.layers, before.layers, strict=True):
            assert torch.equal(layer[0], expected[0])
            assert torch.equal(layer[1], expected[1])


def test_when_an_episode_is_dropped_changes_no_place(engine):
    """Catches a lockstep whose bits depend on how fast a world closes: rows in another order are rounded otherwise."""
    params = SamplingParams(max_tokens=3, seed=1)
    places = []
    for is_late in (False, True):
        with engine.sampling_session() as session:
            first = [TurnRequest(row=row, prompt=history(row, 5), key=(row,)) for row in range(6)]
            session.sample(first, params)
            if not is_late:
                session.drop(1)
                session.drop(4)
            session.sample([first[row] for row in (0, 2, 3, 5)], params)
            if is_late:
                session.drop(4)
                session.drop(1)
            places.append(session._batch.rows)
            assert session.num_cached_tokens == 4 * 7
    assert places[0] == places[1]


@pytest.fixture
def passes(engine):
    """Rows and tokens per row of every pass through the body."""
    shapes = []
    hook = engine._model.network.base_model.register_forward_pre_hook(
        lambda _, args, options: shapes.append(tuple(options["input_ids"].shape)), with_kwargs=True
    )
    yield shapes
    hook.remove()


def test_groups_read_their_prompt_once_and_are_scored_as_their_histories(engine, fed):
    """Catches a group whose prompt is read by every row, and rows that go on behind another group's beginning."""
    params = SamplingParams(max_tokens=3, seed=1)
    system, tasks = history(5, 20), [history(6, 9), history(7, 13)]
    prompts = {row: np.concatenate([system, tasks[row % 2]]) for row in range(6)}
    with engine.sampling_session() as session:
        for turn in range(2):
            requests = [TurnRequest(row=row, prompt=prompt, key=(row, turn)) for row, prompt in prompts.items()]
            for request, sample in zip(requests, session.sample(requests, params), strict=True):
                require_true_logprobs(engine, request.prompt, sample, 1.0)
                prompts[request.row] = np.concatenate([request.prompt, sample.token_ids, history(turn, 4)])
            if not turn:
                # Once the instructions and both tasks, and by the other four rows their last token.
                assert session.num_read_tokens == 20 + 9 + 13 + 4
                assert sum(fed) == session.num_read_tokens + 6 * 2


@pytest.mark.parametrize("is_parked", [False, True])
def test_an_episode_that_starts_late_begins_with_what_its_group_holds(engine, is_parked):
    """Catches a refilled row that reads the prompt of its group again, and a copy that is a view of another's cache."""
    params = SamplingParams(max_tokens=2, seed=1)
    prompt = history(5, 30)
    with engine.sampling_session() as session:
        session.sample([TurnRequest(row=0, prompt=prompt, key=(0,))], params)
        if is_parked:
            session.sample([TurnRequest(row=7, prompt=history(8, 3), key=(7,))], params)
        before = session.num_read_tokens
        late = TurnRequest(row=1, prompt=np.concatenate([prompt, history(9, 2)]), key=(1,))
        (sample,) = session.sample([late], params)
        assert session.num_read_tokens == before + 2
        require_true_logprobs(engine, late.prompt, sample, 1.0)
        session.drop(0)
        later = TurnRequest(row=1, prompt=np.concatenate([late.prompt, sample.token_ids]), key=(1, 1))
        (sample,) = session.sample([later], params)
        require_true_logprobs(engine, later.prompt, sample, 1.0)


def test_a_row_that_has_stopped_is_computed_no_further(engine, passes):
    """Catches rows that ended and still go through the model until the last one ends."""
    params = SamplingParams(max_tokens=30, temperature=2.0, seed=2, stop_token_ids=tuple(range(0, 20)))
    requests = [TurnRequest(row=row, prompt=history(row, 4), key=(row,)) for row in range(6)]
    with engine.sampling_session() as session:
        samples = session.sample(requests, params)
        lengths = [len(sample.token_ids) for sample in samples]
        assert len(set(lengths)) > 2
        assert passes == [(6, 4), *((sum(length > step for length in lengths), 1) for step in range(1, max(lengths)))]
        for request, sample in zip(requests, samples, strict=True):
            require_true_logprobs(engine, request.prompt, sample, 2.0)


def test_one_long_prompt_is_not_padding_for_all_others(engine, passes, monkeypatch):
    """Catches an episode that joins a batch and makes all of its rows as wide as its prompt."""
    monkeypatch.setattr(prefill, "_PASS_TOKENS", 4)
    params = SamplingParams(max_tokens=1, seed=1)
    first = [TurnRequest(row=row, prompt=history(row, 5 + row), key=(row,)) for row in range(4)]
    with engine.sampling_session() as session:
        turns = zip(first, session.sample(first, params), strict=True)
        again = [
            TurnRequest(row=one.row, prompt=np.concatenate([one.prompt, s.token_ids]), key=(one.row, 1))
            for one, s in turns
        ]
        passes.clear()
        again.insert(2, TurnRequest(row=4, prompt=history(9, 40), key=(4,)))
        for request, sample in zip(again, session.sample(again, params), strict=True):
            require_true_logprobs(engine, request.prompt, sample, 1.0)
        assert passes[:2] == [(1, 39), (5, 1)]


def test_a_token_copies_no_cache_and_room_is_given_back(engine):
    """Catches a cache that is written anew for every token, and buffers that stay as wide as an episode long gone."""
    params = SamplingParams(max_tokens=20, seed=1)
    with engine.sampling_session() as session:
        layer = session._batch._layers[0]
        seen = []
        append = session._batch.append

        def noting(ids):
            hidden = append(ids)
            seen.append(layer.keys.data_ptr())
            return hidden

        session._batch.append = noting
        session.sample([TurnRequest(row=row, prompt=history(row, 9), key=(row,)) for row in range(3)], params)
        assert len(seen) == 19
        assert len(set(seen)) == 1
        session._batch._fit(3, 1000)
        assert layer.keys.shape[2] >= 1000
        session.sample([TurnRequest(row=row, prompt=history(row, 9), key=(row,)) for row in range(4)], params)
        assert layer.keys.shape[0] == 4
        assert layer.keys.shape[2] < 150


def test_padding_behind_the_context_asks_for_no_position(tmp_path, monkeypatch):
    """Catches a row near its end that is padded past the model's table of positions by a row that reads more."""
    monkeypatch.setattr(prefill, "_PASS_TOKENS", 10_000)  # all rows in one pass
    torch.manual_seed(4)
    config = GPT2Config(vocab_size=61, n_positions=64, n_embd=16, n_layer=2, n_head=2, bos_token_id=1, eos_token_id=2)
    config.resid_pdrop = config.embd_pdrop = config.attn_pdrop = 0.0
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    engine = LocalEngine(tmp_path, compute_dtype="float64", device="cpu", trains=False)
    params = SamplingParams(max_tokens=2, seed=1)
    prompts = {0: history(0, 54), 1: history(1, 6)}
    with engine.sampling_session() as session:
        for turn, num in enumerate((1, 25)):
            requests = [TurnRequest(row=row, prompt=prompt, key=(row, turn)) for row, prompt in prompts.items()]
            for request, sample in zip(requests, session.sample(requests, params), strict=True):
                require_true_logprobs(engine, request.prompt, sample, 1.0)
                answer = history(turn, num + 24 * request.row)
                prompts[request.row] = np.concatenate([request.prompt, sample.token_ids, answer])


def test_models_that_keep_nothing_between_turns_are_still_exact(tmp_path):
    """Catches a parked row of a model whose layers count distances in columns."""
    torch.manual_seed(3)
    MistralForCausalLM(MistralConfig(**SIZES, sliding_window=6)).save_pretrained(tmp_path)
    engine = LocalEngine(tmp_path, compute_dtype="float64", device="cpu", trains=False)
    prompts = {row: history(row, length) for row, length in enumerate((9, 9, 9))}
    with engine.sampling_session() as session:
        for asked, sample in play(session, prompts, 5, SamplingParams(max_tokens=2, seed=1), seed=0):
            require_true_logprobs(engine, asked.prompt, sample, 1.0)
        assert not session._parked
