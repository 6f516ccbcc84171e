"""Records: every column explained, every number with a unit, no number on a row that failed."""

import pyarrow as pa
import pytest
from pydantic import ValidationError
from tests.factories import measurement

from tokenwatt.record import RECORDS, EnergyStatus, Reason, Status
from tokenwatt.schema import arrow_schema


@pytest.mark.parametrize("kind", RECORDS, ids=lambda kind: kind.grain)
def test_every_column_is_described_and_every_number_has_a_unit(kind):
    schema = arrow_schema(kind)
    assert schema.metadata[b"grain"].decode() == kind.grain
    for field in schema:
        assert field.metadata[b"description"], field.name
        if pa.types.is_integer(field.type) or pa.types.is_floating(field.type):
            assert field.metadata[b"unit"], field.name


@pytest.mark.parametrize(
    ("ending", "unit"), [("_s", "s"), ("_j", "J"), ("_w", "W"), ("_hz", "Hz"), ("_c", "Cel"), ("_bytes", "byte")]
)
def test_a_name_never_lies_about_its_unit(ending, unit):
    for kind in RECORDS:
        for field in arrow_schema(kind):
            if field.name.endswith(ending) and "_per_" not in field.name:
                assert field.metadata[b"unit"].decode() == unit, field.name


def test_a_failed_row_cannot_carry_a_speed():
    with pytest.raises(ValidationError, match="status failed cannot carry output_tokens"):
        measurement(status=Status.FAILED, reasons=(Reason.ENGINE_ERROR,))


def test_a_good_row_needs_its_window():
    with pytest.raises(ValidationError, match="needs window_s"):
        measurement(window_s=None)


@pytest.mark.parametrize(
    ("status", "joules"), [(EnergyStatus.NO_METER, 1.0), (EnergyStatus.INVALID, 1.0), (EnergyStatus.VALID, None)]
)
def test_joules_and_their_status_agree(status, joules):
    with pytest.raises(ValidationError, match="contradicts gpu_energy_j"):
        measurement(energy_status=status, gpu_energy_j=joules)


def test_values_are_never_coerced():
    with pytest.raises(ValidationError):
        measurement(output_tokens="10")
