"""Token counters in the shapes in which servers really publish them."""

from __future__ import annotations

import pytest

from tokenwatt.metering.token_counters import growth, recognise
from tokenwatt.power.external.prometheus import Labels, parse_metrics

PAGES = {
    "vLLM": """
# HELP vllm:prompt_tokens_total Number of prefill tokens processed.
# TYPE vllm:prompt_tokens_total counter
vllm:prompt_tokens_total{engine="0",model_name="m"} 100.0
vllm:prompt_tokens_total{engine="1",model_name="m"} 50.0
# TYPE vllm:prompt_tokens_created gauge
vllm:prompt_tokens_created{engine="0",model_name="m"} 1.7e9
# HELP vllm:generation_tokens_total Number of generation tokens processed.
# TYPE vllm:generation_tokens_total counter
vllm:generation_tokens_total{engine="0",model_name="m"} 2.0e+06
vllm:generation_tokens_total{engine="1",model_name="m"} 7.0
""",
    "SGLang": """
# TYPE sglang:prompt_tokens_total counter
sglang:prompt_tokens_total{model_name="m"} 150.0
# TYPE sglang:generation_tokens_total counter
sglang:generation_tokens_total{model_name="m"} 2000007.0
""",
    "TGI": """
# TYPE tgi_request_generated_tokens histogram
tgi_request_generated_tokens_bucket{le="+Inf"} 9
tgi_request_generated_tokens_sum 2000007
tgi_request_generated_tokens_count 9
# TYPE tgi_request_input_length histogram
tgi_request_input_length_bucket{le="+Inf"} 9
tgi_request_input_length_sum 150
tgi_request_input_length_count 9
""",
    "llama.cpp": """
# HELP llamacpp:prompt_tokens_total Number of prompt tokens processed.
# TYPE llamacpp:prompt_tokens_total counter
llamacpp:prompt_tokens_total 150
# TYPE llamacpp:tokens_predicted_total counter
llamacpp:tokens_predicted_total 2000007
""",
    "TensorRT-LLM": """
# TYPE trtllm_prompt_tokens_total counter
trtllm_prompt_tokens_total{engine_type="trtllm",model_name="m"} 150.0
# TYPE trtllm_generation_tokens_total counter
trtllm_generation_tokens_total{engine_type="trtllm",model_name="m"} 2000007.0
""",
}


@pytest.mark.parametrize("server", PAGES)
def test_a_server_is_recognised_and_its_time_series_are_added_up(server):
    page = parse_metrics(PAGES[server].encode(), "test")
    counters = recognise(page)
    assert counters is not None
    assert counters.server == server
    assert growth({}, page[counters.output]) == 2_000_007
    assert growth({}, page[counters.input]) == 150


def test_another_page_is_nobodys():
    assert recognise(parse_metrics(b"http_requests_total 5\n", "test")) is None


@pytest.mark.parametrize(
    ("before", "after", "tokens"),
    [
        ({"0": 5.0, "1": 10.0}, {"0": 9.0, "1": 10.0}, 4),
        ({"0": 5.0}, {"0": 5.0, "1": 3.0}, 3),
        ({"0": 5.0, "1": 10.0}, {"0": 500.0, "1": 2.0}, None),
        ({"0": 5.0, "1": 10.0}, {"0": 500.0}, None),
        ({}, {}, 0),
    ],
    ids=["sum", "a new replica", "one started anew", "one is gone", "not yet any"],
)
def test_growth_of_all_series_together(before, after, tokens):
    assert growth(labelled(before), labelled(after)) == tokens


def labelled(look: dict[str, float]) -> dict[Labels, float]:
    return {(("engine", name),): value for name, value in look.items()}
