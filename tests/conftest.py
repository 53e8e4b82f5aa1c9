"""What every test stands on: no settings of the user's, and a torchvision that can be imported."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest

from castore import tally

# Shared machines pause; how long an example takes says nothing about whether it is right.
hypothesis.settings.register_profile("castore", deadline=None)
hypothesis.settings.load_profile("castore")


def _import_torchvision() -> Any:
    """Import torchvision beside any build of torch; return what must be kept alive.

    Its Python half registers against two operators of its binary half. A binary made for another
    build of torch does not load, and then torchvision cannot be imported at all. Data sets and
    transforms need neither operator, so they are declared here, without a body.
    """
    try:
        import torchvision
    except ImportError:
        return None
    except RuntimeError:
        import torch

        library = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision  # noqa: F401

        return library
    return None


_torchvision_operators = _import_torchvision()


@pytest.fixture(scope="session", autouse=True)
def no_user_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the user's settings and cache folder out of the tests, and the tests out of them."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("CASTORE_")]:
            patch.delenv(name)
        for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME"):
            patch.setenv(name, str(home))
        patch.setenv("NO_COLOR", "1")
        yield
        tally.flush()  # while HOME is not the user's
