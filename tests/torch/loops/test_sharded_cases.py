"""What people are hurt by when they clip sharded models, case by case, and the test of each."""

import importlib
import re

import pytest

SHARDED, GROUPS = "tests.torch.loops.test_sharded", "tests.torch.loops.test_sharded_groups"
NUMBERS = "test_it_is_what_one_process_does"

CASES = {
    "even, uneven and empty shards": [(SHARDED, NUMBERS, "fsdp-global"), (SHARDED, NUMBERS, "fsdp-largest")],
    "strides of FSDP over tensor parallel": [(SHARDED, NUMBERS, "fsdp_tp-tensor")],
    "replicas beside shards count once": [(SHARDED, NUMBERS, "tensor-global")],
    "hybrid sharding": [(SHARDED, NUMBERS, "hsdp-global")],
    "experts on their own mesh": [(GROUPS, NUMBERS, "expert_meshes-global")],
    "experts as plain tensors": [
        (GROUPS, NUMBERS, "experts-global"),
        (GROUPS, NUMBERS, "repeated_experts-global"),
        (GROUPS, "test_replicas_that_are_none_are_an_error_in_the_first_step", ""),
    ],
    "plain tensors beside DTensors": [(SHARDED, NUMBERS, "fsdp-tensor")],
    "partial gradients": [(GROUPS, NUMBERS, "partial-global")],
    "stages of a pipeline": [(GROUPS, NUMBERS, "stages-global"), (GROUPS, NUMBERS, "empty_stage-global")],
    "parameters tied across stages": [
        (GROUPS, NUMBERS, "stages-global"),
        (GROUPS, NUMBERS, "plain_stages-global"),
    ],
    "ranks that lack gradients": [
        (SHARDED, "test_a_rank_without_a_gradient_does_not_keep_the_others_waiting", ""),
        (GROUPS, "test_an_expert_without_a_gradient_is_left_out", ""),
    ],
    "several dtypes": [(GROUPS, "test_mixed_dtypes_are_measured_in_float64", "")],
    "half precision": [(GROUPS, "test_mixed_dtypes_are_measured_in_float64", "")],
    "one decision on all ranks": [
        (SHARDED, "test_all_ranks_see_what_is_not_finite_on_one", "skip"),
        (SHARDED, NUMBERS, "fsdp-adagc"),
    ],
    "what is returned is the whole norm, a plain tensor": [
        (SHARDED, "test_the_drop_ins_take_the_norm_of_the_whole", "fsdp")
    ],
    "the same bits on all ranks": [(SHARDED, NUMBERS, "fsdp-global"), (GROUPS, NUMBERS, "stages-global")],
    "only local shards in memory": [(GROUPS, "test_only_numbers_are_sent", "")],
    "generators, and gradients in the place of parameters": [
        (SHARDED, "test_the_drop_ins_take_the_norm_of_the_whole", "fsdp"),
        (SHARDED, "test_what_is_refused_is_refused_on_every_rank", ""),
    ],
}
"""Not here: gradients offloaded from a GPU, which takes one; gradients of another scale on other layouts, for
`suggest` and `compare` to speak of."""


@pytest.mark.parametrize("case", CASES)
def test_each_case_has_its_test(case):
    for module, name, parameters in CASES[case]:
        function = getattr(importlib.import_module(module), name)
        marks = [mark for mark in getattr(function, "pytestmark", []) if mark.name == "parametrize"]
        known = {
            "-".join(map(str, values if isinstance(values, tuple) else (values,)))
            for mark in marks
            for values in mark.args[1]
        }
        assert (parameters in known) if parameters else not known, re.sub(r"^.*\.", "", module)
