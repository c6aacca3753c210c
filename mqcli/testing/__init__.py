"""The conformance suite for transports, shipped for the authors of plugins. It needs pytest.

Write a :class:`Harness` for a kind of destination and subclass the suite with a fixture::

    class TestMemoBox(TransportConformance):
        @pytest.fixture
        def harness(self, tmp_path):
            return MemoHarness(tmp_path)

The roles and traits of the transport alone decide what is tested. What does not apply becomes its
opposite: a refusal, with nothing opened. There is nothing to skip and nothing to configure.
"""

import pytest

# Before they are imported: failures then show the values on both sides.
pytest.register_assert_rewrite(
    *(
        f"{__name__}.{name}"
        for name in (
            "support", "publishing", "reading", "places", "settling", "living", "promising",
        )
    )
)  # fmt: skip

from .harness import Harness  # noqa: E402
from .living import Living  # noqa: E402
from .places import Places  # noqa: E402
from .promising import Promising  # noqa: E402
from .publishing import Publishing  # noqa: E402
from .reading import Reading  # noqa: E402
from .settling import Settling  # noqa: E402

__all__ = ["Harness", "TransportConformance"]


class TransportConformance(Promising, Publishing, Reading, Places, Settling, Living):
    """Every test of the contract; subclasses provide the fixture ``harness``."""

    # So that pytest collects the subclasses and not this class where it was imported.
    __test__ = False

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        cls.__test__ = True
