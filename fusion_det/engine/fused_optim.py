"""torch's fused optimizers for weights of any layout.

On a CPU their kernels walk through the memory of parameter, gradient and state side by side and ask nobody how the tensors are laid out.
They copy every gradient that is not contiguous, that is those of NHWC weights, only to read the original: half of a step's time. And where
gradient or state is laid out otherwise than the parameter, elements of different places are mixed in silence. (Measured with torch 2.15;
``tests/engine/test_fused_optim.py``.) Here the kernels get contiguous views of the same memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim.sgd import sgd as sgd_step


class FusedSGD(torch.optim.SGD):
    """``torch.optim.SGD(fused=True)`` without dampening, bit by bit, in any layout; state can be exchanged with it."""

    def __init__(self, params: Any, *, lr: float, momentum: float = 0.0, weight_decay: float = 0.0, nesterov: bool = False) -> None:
        super().__init__(params, lr=lr, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov, fused=True)
        self.register_load_state_dict_post_hook(_lay_out_state)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            gradients = [parameter.grad for parameter in parameters]
            momenta = [self._momentum(parameter) for parameter in parameters] if group["momentum"] else []
            side_by_side(parameters, gradients, momenta)
            sgd_step(
                parameters,
                gradients,
                [*momenta] or [None] * len(parameters),
                fused=True,
                grad_scale=getattr(self, "grad_scale", None),  # both from torch.amp.GradScaler
                found_inf=getattr(self, "found_inf", None),
                **{key: group[key] for key in ("weight_decay", "momentum", "lr", "dampening", "nesterov", "maximize")},
            )
        return loss

    def _momentum(self, parameter: Tensor) -> Tensor:
        """Zero at first, from which a step without dampening makes the gradient, as torch's first step does."""
        state = self.state[parameter]
        if state.get("momentum_buffer") is None:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        return state["momentum_buffer"]


class FusedAdamW(torch.optim.AdamW):
    """``torch.optim.AdamW(fused=True)``, bit by bit, in any layout; state can be exchanged with it."""

    def __init__(self, params: Any, *, lr: float, betas: tuple[float, float], weight_decay: float = 0.0) -> None:
        super().__init__(params, lr=lr, betas=betas, weight_decay=weight_decay, fused=True)
        self.register_load_state_dict_post_hook(_lay_out_state)

    def _init_group(self, group: dict[str, Any], *collected: list[Tensor]) -> bool:
        """torch's: parameters, gradients, two moments, largest second moments (none here) and steps of those that have a gradient."""
        has_complex = super()._init_group(group, *collected)
        side_by_side(*collected[:4])
        return bool(has_complex)


def side_by_side(parameters: list[Tensor], gradients: list[Tensor], *states: list[Tensor]) -> None:
    """Replace, in the lists, the tensors of every parameter on the CPU by contiguous views, all with the parameter's order of dimensions.

    A gradient that is laid out otherwise becomes a copy. ``states`` must be laid out as their parameters are; lists may be empty.
    """
    for index, parameter in enumerate(parameters):
        if parameter.device.type != "cpu" or (parameter.is_contiguous() and gradients[index].is_contiguous()):
            continue
        strides = parameter.stride()
        order = sorted(range(parameter.ndim), key=strides.__getitem__, reverse=True)
        for tensors in (parameters, gradients, *states):
            if tensors:
                tensors[index] = tensors[index].permute(order)
        gradients[index] = gradients[index].contiguous()


def _lay_out_state(optimizer: torch.optim.Optimizer) -> None:
    """Lay out loaded state as its parameters are: it may come from a run in another layout."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if torch.is_tensor(value) and value.shape == parameter.shape and value.stride() != parameter.stride():
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
