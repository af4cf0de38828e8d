"""Blocks in which two maps meet: ResNet's two kinds, and two branches as in Inception. Each joins them by ``join``, an operator.

Parameter names are torchvision's. A block starts with addition; :class:`fusion_det.backbones.fusion_resnet.FusionResNet` puts another
operator into its place.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from fusion_det.fusion.add import Add
from fusion_det.layers import StridedConv2d


class NarrowPointwise(nn.Conv2d):
    """A strided 1x1 convolution that leaves the pixels out first and then needs no stride: the same numbers.

    oneDNN's own one, in NHWC with fewer than 16 input channels, writes out of bounds on its way back (seen in torch 2.15: crashes).
    """

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__(in_channels, channels, 1, bias=False)
        self.step = stride

    def forward(self, input: Tensor) -> Tensor:
        """[B, C_in, H, W] -> [B, C_out, ceil(H / stride), ceil(W / stride)]."""
        return super().forward(input[:, :, :: self.step, :: self.step])


def make_conv(in_channels: int, channels: int, kernel_size: int, stride: int = 1) -> nn.Conv2d:
    """A convolution without bias that keeps the size up to its stride, with ResNet's initial weights (kaiming normal, fan out)."""
    conv: nn.Conv2d
    if stride > 1 and kernel_size == 1 and in_channels < 16:
        conv = NarrowPointwise(in_channels, channels, stride)
    else:
        convolution = StridedConv2d if stride > 1 else nn.Conv2d
        conv = convolution(in_channels, channels, kernel_size, stride, kernel_size // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv


def make_shortcut(in_channels: int, channels: int, stride: int) -> nn.Module:
    """The identity, or where the shape changes a strided 1x1 convolution with BatchNorm (He et al., option B)."""
    if stride == 1 and in_channels == channels:
        return nn.Identity()
    return nn.Sequential(make_conv(in_channels, channels, 1, stride), nn.BatchNorm2d(channels))


class BasicBlock(nn.Module):
    """``relu(join(shortcut(x), residual(x)))``, the residual of two 3x3 convolutions (He et al., CVPR 2016, arXiv 1512.03385, Fig. 5 left).

    The shortcut is the join's own, first input and the residual its second, as in the AFF paper (x the identity, Fig. 3b); the authors'
    codes call their fusion with the residual first.
    """

    expansion = 1
    inputs = ("shortcut", "residual")

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = make_conv(in_channels, width, 3, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = make_conv(width, width, 3)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = make_shortcut(in_channels, width, stride)
        self.join: nn.Module = Add(width, 2)

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """The normalisation that ends the residual."""
        return self.bn2

    def forward(self, x: Tensor) -> Tensor:
        """[B, C_in, H, W] -> [B, width, ceil(H / stride), ceil(W / stride)]."""
        residual = F.relu(self.bn1(self.conv1(x)), inplace=True)
        residual = self.bn2(self.conv2(residual))
        return F.relu(self.join([self.downsample(x), residual]))  # not in place: the operator may keep what it gives


class Bottleneck(nn.Module):
    """As :class:`BasicBlock`, the residual 1x1, 3x3, 1x1 with four times as many channels at its end (Fig. 5 right).

    The 3x3 convolution strides, not the first 1x1 as in the paper ("v1.5"; torchvision's and the AFF authors' codes do so).
    """

    expansion = 4
    inputs = ("shortcut", "residual")

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        channels = width * self.expansion
        self.conv1 = make_conv(in_channels, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = make_conv(width, width, 3, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = make_conv(width, channels, 1)
        self.bn3 = nn.BatchNorm2d(channels)
        self.downsample = make_shortcut(in_channels, channels, stride)
        self.join: nn.Module = Add(channels, 2)

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """The normalisation that ends the residual."""
        return self.bn3

    def forward(self, x: Tensor) -> Tensor:
        """[B, C_in, H, W] -> [B, 4 width, ceil(H / stride), ceil(W / stride)]."""
        residual = F.relu(self.bn1(self.conv1(x)), inplace=True)
        residual = F.relu(self.bn2(self.conv2(residual)), inplace=True)
        residual = self.bn3(self.conv3(residual))
        return F.relu(self.join([self.downsample(x), residual]))


class InceptionBlock(nn.Module):
    """``relu(join(a(x), b(x)))``, a one 3x3 and b one 5x5 convolution, each with BatchNorm and all of ``width`` channels; no shortcut.

    The AFF paper's same-layer fusion: in Inception (Szegedy et al., CVPR 2015, arXiv 1409.4842, Fig. 2a) branches of several kernel sizes
    are concatenated; here the two that the paper fuses are joined. The smaller field is the own, first input, the larger the second.
    Decided, as the paper draws it without details and its code has no such network: no 1x1 branch, pooling branch or reduction; the ReLU
    comes after the join, as in the ResNet blocks (before a concatenation or after it is the same).
    """

    expansion = 1
    inputs = ("3x3", "5x5")
    last_norm = None

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.branch3x3 = nn.Sequential(make_conv(in_channels, width, 3, stride), nn.BatchNorm2d(width))
        self.branch5x5 = nn.Sequential(make_conv(in_channels, width, 5, stride), nn.BatchNorm2d(width))
        self.join: nn.Module = Add(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C_in, H, W] -> [B, width, ceil(H / stride), ceil(W / stride)]."""
        return F.relu(self.join([self.branch3x3(x), self.branch5x5(x)]))
