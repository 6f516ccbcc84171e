"""Systems are made of Facts, and what is missing is said."""

import pytest

from tokenwatt.errors import UserError
from tokenwatt.reference.facts import load_facts
from tokenwatt.reference.systems import load_system, system_of_board

SYSTEMS = ("H100 SXM", "H200 SXM", "B200 SXM", "GB200 NVL72", "GB300 NVL72", "VR NVL72")
WITHOUT_COST = ("A100 SXM", "B300 SXM", "L40S", "RTX PRO 6000", "Rubin Ultra NVL144")


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_system_has_what_a_fleet_needs(name: str) -> None:
    spec = load_system(name)
    assert spec.flop_per_s("bfloat16").value < spec.flop_per_s("fp8").value
    assert 1e12 < spec.hbm_bytes_per_s.value < 1e14
    assert 5e10 < spec.hbm_bytes.value < 1e12
    assert spec.tdp_w.value < spec.all_in_power_w_per_gpu.value
    assert spec.gpus_per_domain.value in (8, 72)
    assert spec.usd_per_gpu_h("hyperscaler").value < spec.usd_per_gpu_h("rental").value


def test_the_facts_name_these_systems() -> None:
    assert tuple(load_facts().subjects) == (*SYSTEMS, *WITHOUT_COST)


@pytest.mark.parametrize("name", [*SYSTEMS, *WITHOUT_COST])
def test_every_system_has_what_a_prediction_needs(name: str) -> None:
    spec = load_system(name)
    assert spec.has_peak("bfloat16")
    assert spec.has_peak("fp8") == (name != "A100 SXM")
    assert 5e10 < spec.nvlink_bytes_per_s.value < 5e12
    assert 2e10 < spec.scale_out_bytes_per_s.value < spec.nvlink_bytes_per_s.value
    if name not in ("L40S", "RTX PRO 6000"):
        assert 2020 <= spec.ship_year.value <= 2027


def test_unknown_system_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"unknown system 'GB300' .did you mean 'GB300 NVL72'"):
        load_system("GB300")


def test_unknown_price_has_no_default() -> None:
    with pytest.raises(UserError, match="no Fact 'own_neocloud_usd_per_gpu_h' for 'VR NVL72'"):
        load_system("VR NVL72").usd_per_gpu_h("neocloud")


def test_unknown_precision_is_refused() -> None:
    with pytest.raises(UserError, match="dtype 'float32'; known: bfloat16, float16, fp4, fp8"):
        load_system("H100 SXM").flop_per_s("float32")


@pytest.mark.parametrize(
    ("board", "system"),
    [
        ("NVIDIA H100 80GB HBM3", "H100 SXM"),
        ("NVIDIA H200", "H200 SXM"),
        ("NVIDIA H200 NVL", None),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA B200", None),
    ],
)
def test_only_sxm_boards_are_hopper_systems(board: str, system: str | None) -> None:
    assert system_of_board(board) == system
