import pytest

from bksdm.errors import InputError
from bksdm.models.address import HubAddress, hub_address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("hf://owner/name", HubAddress("owner/name")),
        ("hf://owner/name/", HubAddress("owner/name")),
        ("hf://owner/name@v1.0", HubAddress("owner/name", "v1.0")),
        ("hf://owner/name@refs/pr/1", HubAddress("owner/name", "refs/pr/1")),
        ("owner/name", None),
        ("runs/a", None),
    ],
)
def test_addresses(text: str, address: HubAddress | None) -> None:
    assert hub_address(text) == address
    if address is not None:
        assert hub_address(str(address)) == address


@pytest.mark.parametrize("text", ["hf://", "hf://name", "hf://a/b/c", "hf://a/b@", "hf://a/../b"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="expected"):
        hub_address(text)
