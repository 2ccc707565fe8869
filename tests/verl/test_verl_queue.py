"""Rows through verl's own TransferQueue, as its trainer moves them from agent loops to workers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from verl_present import has_verl

if not has_verl():
    pytest.skip("needs verl: make test-verl", allow_module_level=True)

import torch

from envecho.objective import EchoConfig
from envecho.recipes.agreement.case import settings
from envecho.tokens.trainers.verl import row

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(240)]

NUM_ROWS = 7


@pytest.fixture(scope="module")
def queue(verl_config: Any) -> Iterator[Any]:
    """A running TransferQueue with one storage unit."""
    import ray
    import transfer_queue

    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
    config = verl_config.transfer_queue.copy()
    config.enable = True
    config.backend.SimpleStorage.num_data_storage_units = 1
    transfer_queue.init(config)
    yield transfer_queue
    transfer_queue.close()
    ray.shutdown()


@pytest.fixture(scope="module")
def batch(queue: Any) -> tuple[list[dict[str, Any]], Any]:
    """The first export rows in the queue, put one by one, and the batch that a worker gets, filled up to eight."""
    from verl.experimental.agent_loop.agent_loop import AgentLoopOutput
    from verl.trainer.ppo.padding_utils import upsample_batch_to_divisible_size
    from verl.utils.tensordict_utils import list_of_dict_to_tensordict
    from verl.utils.transferqueue_utils import KVBatchMeta, _meta_to_realdata

    rows = [one for one in (row(s, Counter()) for s in settings()[0].sequences()) if one is not None][:NUM_ROWS]
    keys, tags = [], []
    for number, one in enumerate(rows):
        fields = AgentLoopOutput(**one).as_dict()
        fields["uid"] = one["extra_fields"]["group_id"]
        fields["loss_mask"] = fields["response_mask"]
        fields["input_ids"] = torch.cat([fields["prompts"], fields["responses"]])
        fields["position_ids"] = torch.arange(len(fields["input_ids"]))
        keys.append(f"{fields['uid']}_{number}_0")
        tags.append({"status": "success", "seq_len": len(fields["input_ids"])})
        queue.kv_batch_put(
            keys=[keys[-1]], fields=list_of_dict_to_tensordict([fields]), tags=[tags[-1]], partition_id="train"
        )
    meta = KVBatchMeta(partition_id="train", keys=keys, tags=tags)
    return rows, _meta_to_realdata(upsample_batch_to_divisible_size(meta, 8, 1))


def test_masks_arrive_at_a_worker_as_the_agent_loop_wrote_them(batch: tuple[list[dict[str, Any]], Any]) -> None:
    """Catches extra fields that the queue drops, reorders or hands over as something else than a row's own."""
    from envecho.plugins.verl import engine

    rows, data = batch
    found = engine._rank_rows(data, EchoConfig())
    for one, mask in zip(rows, found.masks, strict=False):
        assert mask is not None
        assert mask.targets.astype(int).tolist() == one["extra_fields"]["obs_mask"]


def test_a_row_that_fills_verls_batch_carries_copied_masks_and_is_left_out(
    batch: tuple[list[dict[str, Any]], Any],
) -> None:
    """Catches the first row's masks being trained again on verl's padding, one token of which is no observation."""
    from envecho.plugins.verl import engine

    rows, data = batch
    padding = engine._extra_fields(data)[NUM_ROWS]
    assert padding["obs_mask"] == rows[0]["extra_fields"]["obs_mask"]
    assert len(data["responses"][NUM_ROWS]) == 1
    found = engine._rank_rows(data, EchoConfig())
    assert [mask is None for mask in found.masks] == [False] * NUM_ROWS + [True]
