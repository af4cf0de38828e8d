"""Published necks against straight-line twins: the reference's forward pass in plain functions, reading the same weights by role."""

from __future__ import annotations

import pytest
import torch
from named_necks import backbone_maps, named_neck, shuffle_norms
from torch.nn import functional as F

from fusion_det.structures import LevelSpec

LEVELS = [LevelSpec("C3", 12, 8), LevelSpec("C4", 20, 16), LevelSpec("C5", 28, 32)]
FOUR = [LevelSpec("C2", 8, 4), *LEVELS]
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}


def prepare(name, levels=LEVELS, height=128, width=192, **keys):
    torch.manual_seed(3)
    neck = shuffle_norms(named_neck(name, levels, **({"channels": 8} | keys))).eval()
    maps = [m.detach() for m in backbone_maps(levels, 2, height, width)]
    return neck, maps


def enlarge(x, like):
    return F.interpolate(x, size=like.shape[-2:], mode="nearest")


def same(found, expected):
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, **TOLERANCE)


def test_pafpn_sums_go_upward():
    neck, maps = prepare("pafpn", FOUR, extra__count=1)
    laterals = [neck.entries[f"C{i}"](m) for i, m in zip((2, 3, 4, 5), maps, strict=True)]
    for i in (3, 2, 1):
        laterals[i - 1] = laterals[i - 1] + enlarge(laterals[i], laterals[i - 1])
    inner = [neck.blocks[name](x) for name, x in zip(("P2", "F3", "F4", "F5"), laterals, strict=True)]
    edges = ("P2_to_S3", "S3_to_S4", "S4_to_S5")
    for i in range(3):
        inner[i + 1] = inner[i + 1] + neck.resamplers[edges[i]].steps(inner[i])
    outputs = [inner[0], *(neck.blocks[f"P{i + 2}"](inner[i]) for i in (1, 2, 3))]
    same(neck(maps), [*outputs, F.max_pool2d(outputs[-1], 1, stride=2)])


def test_pafpn_paper_outputs_go_upward_with_relu():
    neck, maps = prepare("pafpn_paper")
    c3, c4, c5 = (neck.entries[f"C{i}"](m) for i, m in zip((3, 4, 5), maps, strict=True))
    m4 = c4 + enlarge(c5, c4)
    m3 = c3 + enlarge(m4, c3)
    n3, f4, f5 = (neck.blocks[name][0](x) for name, x in (("P3", m3), ("F4", m4), ("F5", c5)))
    down = [neck.resamplers[edge].steps[0][0] for edge in ("P3_to_P4", "P4_to_P5")]
    n4 = neck.blocks["P4"][0](down[0](n3).relu() + f4).relu()
    n5 = neck.blocks["P5"][0](down[1](n4).relu() + f5).relu()
    same(neck(maps), [n3, n4, n5])


PYTORCH_FLAVOUR = {"entry__bias": False, "deeper__bias": False, "block__bias": False}
PYTORCH_FLAVOUR |= {"deeper__window": "overlap", "resample__down__window": "overlap"}


@pytest.mark.parametrize("keys", [{}, PYTORCH_FLAVOUR], ids=["TensorFlow", "PyTorch"])
def test_bifpn_is_the_code_of_efficientdet(keys):
    neck, maps = prepare("bifpn", topology__repeats=2, **keys)
    assert ("edge_entries.C3_to_B3_1.0.0.bias" in neck.state_dict()) is not bool(keys)
    assert {norm.eps for norm in neck.modules() if isinstance(norm, torch.nn.BatchNorm2d)} == {1e-3}

    def separable(name, x):
        _, depthwise, pointwise, norm = neck.blocks[name]
        return norm(pointwise(depthwise(F.silu(x))))

    def fuse(name, *inputs):
        weights = next(p for p in neck.operators[name].parameters()).relu().flatten()
        return separable(name, sum(w * x for w, x in zip(weights / (weights.sum() + 1e-4), inputs, strict=True)))

    def pool(x):
        if keys:
            return F.max_pool2d(x, 3, 2, 1)
        missing = [1 if length % 2 == 0 else 2 for length in (x.shape[-1], x.shape[-2])]
        return F.max_pool2d(F.pad(x, [side for m in missing for side in (m // 2, m - m // 2)], value=float("-inf")), 3, 2)

    with torch.no_grad():
        for operator in neck.operators.values():
            for weight in operator.parameters():
                weight.uniform_(0.2, 2.0)
    conv, norm, _ = neck.deeper.projections[0]
    p6 = pool(norm(conv(maps[2])))
    p7 = pool(p6)
    raw = dict(zip(("C3", "C4", "C5"), maps, strict=True))
    inputs = [*maps, p6, p7]
    for cell in (1, 2):

        def read(i, node, inputs=inputs, cell=cell):
            return neck.edge_entries[f"C{i}_to_{node}"](raw[f"C{i}"]) if cell == 1 and i <= 5 else inputs[i - 3]

        out = {i: f"B{i}_1" if cell == 1 else f"P{i}" for i in range(3, 8)}
        down = {7: inputs[4]}
        for i in (6, 5, 4, 3):
            name = out[3] if i == 3 else f"T{i}_{cell}"
            own = read(i, name)
            down[i] = fuse(name, own, enlarge(down[i + 1], own))
        up = {3: down[3]}
        for i in (4, 5, 6, 7):
            own = [read(i, out[i]), down[i]] if i < 7 else [inputs[4]]
            up[i] = fuse(out[i], *own, pool(up[i - 1]))
        inputs = [up[i] for i in range(3, 8)]
    same(neck(maps), inputs)


@pytest.mark.parametrize(("height", "width"), [(256, 384), (131, 203), (200, 333)])
def test_nasfpn_is_the_code_of_mmcv(height, width):
    windows = {"resample__down__window": "padded", "deeper__window": "cut"}
    neck, maps = prepare("nasfpn", height=height, width=width, topology__repeats=2, **windows)
    p3, p4, p5 = (neck.entries[f"C{i}"](m) for i, m in zip((3, 4, 5), maps, strict=True))
    p6 = F.max_pool2d(neck.deeper.projections[0](p5), 2, 2)
    p7 = F.max_pool2d(neck.deeper.projections[1](p6), 2, 2)
    assert p6.shape[-2] == p5.shape[-2] // 2

    def resize(x, like):
        if x.shape[-2:] < like.shape[-2:]:
            return enlarge(x, like)
        ratios = [-(-have // wanted) for have, wanted in zip(x.shape[-2:], like.shape[-2:], strict=True)]
        (down, right) = (r * wanted - have for r, wanted, have in zip(ratios, like.shape[-2:], x.shape[-2:], strict=True))
        x = F.pad(x, (right // 2, right - right // 2, down // 2, down - down // 2))
        return F.max_pool2d(x, ratios)

    def merge(name, x):
        _, conv, norm = neck.blocks[name]
        assert conv.bias is not None
        return norm(conv(x.relu()))

    def gp(x1, x2, like):
        x1, x2 = resize(x1, like), resize(x2, like)
        return x2 + x2.mean((2, 3), keepdim=True).sigmoid() * x1

    for letter, suffix in (("Q", "_1"), ("P", "")):
        a = merge(f"A4{suffix}", gp(p6, p4, p4))
        b = merge(f"B4{suffix}", a + p4)
        p3 = merge(f"{letter}3{suffix}", resize(b, p3) + p3)
        p4 = merge(f"{letter}4{suffix}", resize(p3, b) + b)
        p5 = merge(f"{letter}5{suffix}", p5 + gp(p4, p3, p5))
        p7 = merge(f"{letter}7{suffix}", p7 + gp(p5, b, p7))
        p6 = merge(f"{letter}6{suffix}", gp(p7, p5, p6))
    same(neck(maps), [p3, p4, p5, p6, p7])


def test_nasfpn_with_the_gates_of_the_authors_code():
    gate = {"_target_": "fusion_det.necks.operators.global_pooling.GlobalPooling", "gate": "last", "pooled": "max"}
    neck, maps = prepare("nasfpn", height=128, width=128, topology__repeats=1, parts__gp=gate, deeper__project_each=False)
    p3, p4, p5 = (neck.entries[f"C{i}"](m) for i, m in zip((3, 4, 5), maps, strict=True))
    p6 = F.max_pool2d(p5, 2)
    p7 = F.max_pool2d(p6, 2)

    def merge(name, x):
        _, conv, norm = neck.blocks[name]
        return norm(conv(x.relu()))

    def attend(coarse, fine, like):
        coarse, fine = (
            enlarge(x, like) if x.shape[-1] <= like.shape[-1] else F.adaptive_max_pool2d(x, like.shape[-2:]) for x in (coarse, fine)
        )
        return coarse + fine * coarse.amax((2, 3), keepdim=True).sigmoid()

    a = merge("A4", attend(p6, p4, p4))
    b = merge("B4", p4 + a)
    out3 = merge("P3", p3 + enlarge(b, p3))
    out4 = merge("P4", b + F.max_pool2d(out3, 2))
    out5 = merge("P5", attend(out4, out3, p5) + p5)
    out7 = merge("P7", attend(out5, b, p7) + p7)
    out6 = merge("P6", attend(out7, out5, p6))
    same(neck(maps), [out3, out4, out5, out6, out7])


def test_balanced_pyramid_of_libra_retinanet_has_unmerged_levels():
    keys = {"topology__coarser": 0, "topology__unmerged": 2, "topology__stride": 16, "deeper__count": 2}
    neck, maps = prepare("bfp", **keys)
    first, second = neck.deeper.convs
    p6 = F.conv2d(maps[2], first.weight, first.bias, stride=2, padding=1)
    p7 = F.conv2d(p6, second.weight, second.bias, stride=2, padding=1)
    assert [node.name for node in neck.plan.nodes if node.operator == "merge"] == ["M4", "M3"]
    found = neck(maps)
    assert [level.stride for level in neck.levels] == [8, 16, 32, 64, 128]
    refined = found[1] - neck.blocks["F4"](neck.entries["C4"](maps[1]) + enlarge(neck.entries["C5"](maps[2]), maps[1]))
    same(found[3:], [x + F.adaptive_max_pool2d(refined, x.shape[-2:]) for x in (p6, p7)])
    with pytest.raises(ValueError, match="unmerged=3 leaves none of the 3 levels to FPN"):
        named_neck("bfp", LEVELS, topology__unmerged=3)


def test_carafe_pyramid_of_five_levels_merges_its_sixth():
    neck, maps = prepare("carafe_fpn", FOUR, height=131, width=203, deeper__count=1)
    conv = neck.deeper.convs[0]
    p6 = F.conv2d(maps[3], conv.weight, conv.bias, stride=2, padding=1)
    own = neck.entries["C5"](maps[3])
    m5 = own + neck.resamplers["C6_to_M5"](p6, own.shape[-2:])
    same(neck(maps)[3:], [neck.blocks["P5"](m5), neck.blocks["P6"](p6)])


def test_dilated_encoder_is_the_neck_of_yolof():
    neck, maps = prepare("dilated_encoder", channels=16)
    lateral, norm, _ = neck.entries["C5"]
    assert lateral.bias is not None
    x = norm(lateral(maps[2]))
    conv, norm, _ = neck.context[0]
    x = norm(conv(x))
    for block in list(neck.context)[1:]:
        y = x
        for conv, norm, _ in block.convs:
            y = norm(conv(y)).relu()
        x = x + y
    same(neck(maps), [x])
    assert [block.convs[1][0].dilation[0] for block in list(neck.context)[1:]] == [2, 4, 6, 8]
    assert all(block.convs[i][0].bias is None for block in list(neck.context)[1:] for i in range(3))
    neck, _ = prepare("dilated_encoder", channels=16, context__bias=True)
    assert all(block.convs[i][0].bias is not None for block in list(neck.context)[1:] for i in range(3))


def test_balanced_pyramid_gathers_refines_and_scatters():
    neck, maps = prepare("bfp", FOUR)
    laterals = [neck.entries[f"C{i}"](m) for i, m in zip((2, 3, 4, 5), maps, strict=True)]
    for i in (3, 2, 1):
        laterals[i - 1] = laterals[i - 1] + enlarge(laterals[i], laterals[i - 1])
    pyramid = [neck.blocks[f"F{i + 2}"](x) for i, x in enumerate(laterals)]
    pyramid.append(F.max_pool2d(pyramid[-1], 1, stride=2))
    size = pyramid[2].shape[-2:]
    gathered = [F.adaptive_max_pool2d(x, size) if i < 2 else F.interpolate(x, size=size, mode="nearest") for i, x in enumerate(pyramid)]
    mean = sum(gathered) / 5
    refine = neck.blocks["G"]
    query, key, value = (conv(mean).flatten(2) for conv in (refine.theta, refine.phi, refine.g))
    weights = torch.einsum("bcq,bck->bqk", query, key).softmax(-1)
    refined = mean + refine.conv_out(torch.einsum("bqk,bck->bcq", weights, value).view_as(mean))
    expected = [
        x + (F.interpolate(refined, size=x.shape[-2:], mode="nearest") if i < 2 else F.adaptive_max_pool2d(refined, x.shape[-2:]))
        for i, x in enumerate(pyramid)
    ]
    same(neck(maps), expected)


def test_hrfpn_is_concatenation_and_one_convolution():
    neck, maps = prepare("hrfpn", FOUR, topology__coarser=1)
    entries = [neck.entries[f"C{i}"][0] for i in (2, 3, 4, 5)]
    weight = torch.cat([conv.weight for conv in entries], dim=1)
    bias, *none = [conv.bias for conv in entries]
    assert none == [None] * 3
    stacked = torch.cat([F.interpolate(m, size=maps[0].shape[-2:], mode="bilinear", align_corners=False) for m in maps], dim=1)
    whole = F.conv2d(stacked, weight, bias)
    pooled = [F.avg_pool2d(whole, 1 << i) for i in range(5)]
    same(neck(maps), [neck.blocks[f"P{i + 2}"](x) for i, x in enumerate(pooled)])


def csp_rep(block, x):
    """CSPRepLayer of RT-DETR on the modules of RepCSP."""
    deep = block.conv1(x)
    for rep in block.bottlenecks:
        deep = F.silu(rep.conv1(deep) + rep.conv2(deep))
    return deep + block.conv2(x)


def csp(block, x):
    """CSPLayer of YOLOX on the modules of CSP."""
    deep = block.conv1(x)
    for narrow, wide in block.pairs:
        deep = wide(narrow(deep))
    return block.conv3(torch.cat([deep, block.conv2(x)], dim=1))


def reduced_pan(neck, c3, c4, c5, layer, last="P"):
    """The path aggregation of both papers, whose concatenations have the own level last."""

    def join(own, other):
        return torch.cat([other, own] if next(iter(neck.operators.values())).own == "last" else [own, other], dim=1)

    down = [neck.resamplers[f"{last}{i}_to_{last}{i + 1}"].steps for i in (3, 4)]
    t5 = neck.blocks["T5"](c5)
    f4 = layer(neck.blocks["F4"], join(c4, enlarge(t5, c4)))
    t4 = neck.blocks["T4"](f4)
    p3 = layer(neck.blocks[f"{last}3"], join(c3, enlarge(t4, c3)))
    p4 = layer(neck.blocks[f"{last}4"], join(t4, down[0](p3)))
    p5 = layer(neck.blocks[f"{last}5"], join(t5, down[1](p4)))
    return [p3, p4, p5]


def test_hybrid_encoder_with_its_attention():
    neck, maps = prepare("hybrid_encoder", channels=16, context__positions="reference", width=128)
    c3, c4, c5 = (neck.entries[f"C{i}"](m) for i, m in zip((3, 4, 5), maps, strict=True))
    theirs = torch.nn.TransformerEncoderLayer(16, 8, 1024, dropout=0.0, activation="gelu", batch_first=True).eval()
    theirs.load_state_dict(neck.context.layers[0].state_dict())
    height, width = c5.shape[-2:]
    grid = torch.meshgrid(torch.arange(width).float(), torch.arange(height).float(), indexing="ij")
    angles = [axis.flatten()[:, None] * (1.0 / 10000.0 ** (torch.arange(4) / 4)) for axis in grid]
    where = torch.cat([angles[0].sin(), angles[0].cos(), angles[1].sin(), angles[1].cos()], dim=1)
    tokens = c5.flatten(2).transpose(1, 2)
    attended = theirs.self_attn(tokens + where, tokens + where, tokens, need_weights=False)[0]
    tokens = theirs.norm1(tokens + attended)
    tokens = theirs.norm2(tokens + theirs.linear2(F.gelu(theirs.linear1(tokens))))
    c5 = tokens.transpose(1, 2).reshape_as(c5)
    same(neck(maps), reduced_pan(neck, c3, c4, c5, csp_rep))


def test_yolox_pafpn_with_the_widths_of_its_backbone():
    levels = [LevelSpec("C3", 8, 8), LevelSpec("C4", 16, 16), LevelSpec("C5", 32, 32)]
    neck, maps = prepare("yolox_pafpn", levels, widths=1.0)
    assert [level.channels for level in neck.levels] == [8, 16, 32]
    assert not list(neck.entries.parameters())
    assert neck.blocks["T5"][0].weight.shape[:2] == (16, 32)
    assert neck.blocks["P5"].conv1[0].weight.shape[:2] == (16, 32)
    assert {(n.eps, n.momentum) for n in neck.modules() if isinstance(n, torch.nn.BatchNorm2d)} == {(1e-3, 0.03)}
    assert {operator.own for operator in neck.operators.values()} == {"last"}
    same(neck(maps), reduced_pan(neck, *maps, csp))


def test_yolox_pafpn_of_mmdetection_projects_its_last_maps():
    levels = [LevelSpec("C3", 8, 8), LevelSpec("C4", 16, 16), LevelSpec("C5", 32, 32)]
    neck, maps = prepare("yolox_pafpn", levels, widths=1.0, channels=24, topology__project=True, resample__down__depthwise=True)
    assert [level.channels for level in neck.levels] == [24, 24, 24]
    assert [c.groups for c in neck.resamplers["N3_to_N4"].modules() if isinstance(c, torch.nn.Conv2d)] == [8, 1]
    expected = reduced_pan(neck, *maps, csp, last="N")
    same(neck(maps), [F.silu(neck.blocks[f"P{i}"][1](neck.blocks[f"P{i}"][0](x))) for i, x in zip((3, 4, 5), expected, strict=True)])


def test_fpg_is_the_grid_of_mmdetection():
    neck, maps = prepare("fpg", FOUR, height=256, width=256, topology__pathways=6)
    first = [neck.entries[f"C{i}"](m) for i, m in zip((2, 3, 4, 5), maps, strict=True)]
    first.append(F.max_pool2d(first[-1], 1, stride=2))
    skips = [(0, 1, 2, 3), (0, 1, 2), (0, 1), (0,), ()]

    def unit(layers, x):
        _, conv, norm = layers
        return norm(conv(x.relu()))

    columns = [first]
    for stage in range(6):
        before, column = columns[-1], []
        for i in range(5):
            if stage in skips[i]:
                column.append(before[i])
                continue
            key = f"{i + 2}_{stage + 1}"
            total = unit(neck.blocks[f"L{key}"], before[i]) + unit(neck.blocks[f"K{key}"], first[i])
            if i > 0:
                source = next(e for e in neck.resamplers if e.endswith(f"_to_U{key}"))
                total = total + unit(neck.resamplers[source].steps[0], column[-1])
            if i < 4:
                total = total + unit(neck.blocks[f"D{key}"], enlarge(before[i + 1], before[i]))
            column.append(total)
        columns.append(column)
    same(neck(maps), [neck.blocks[f"P{i + 2}"][1](x.relu()) for i, x in enumerate(columns[-1])])


def test_fapn_selects_and_aligns():
    from torchvision.ops import deform_conv2d

    neck, maps = prepare("fapn")
    aligners = [neck.resamplers["C5_to_M4"], neck.resamplers["M4_to_M3"]]
    for aligner in aligners:
        torch.nn.init.normal_(aligner.conv_offset_mask.weight, std=0.1)
    current = neck.entries["C5"](maps[2])
    outputs = [current]
    for i, aligner in zip((4, 3), aligners, strict=True):
        raw, selection = maps[i - 3], neck.entries[f"C{i}"]
        low = selection.project(raw + raw * torch.sigmoid(selection.attention(F.adaptive_avg_pool2d(raw, 1))))
        high = F.interpolate(current, size=low.shape[-2:], mode="bilinear", align_corners=False)
        o1, o2, mask = aligner.conv_offset_mask(aligner.offset(torch.cat([low, high * 2], 1))).chunk(3, 1)
        deform = aligner.deform
        aligned = deform_conv2d(high, torch.cat([o1, o2], 1), deform.weight, deform.bias, padding=1, mask=mask.sigmoid())
        current = aligned.relu() + low
        outputs.insert(0, neck.blocks[f"P{i}"](current))
    same(neck(maps), outputs)


def asymptotic(operator, inputs):
    """ASFF_2, ASFF_3 and ASFF_4 of AFPN's code."""
    assert all(part[0].weight.shape[0] == 8 for part in operator.compress)
    compressed = [part[1](part[0](x)).relu() for part, x in zip(operator.compress, inputs, strict=True)]
    weights = operator.weight_levels(torch.cat(compressed, dim=1)).softmax(dim=1)
    return sum(x * weights[:, i : i + 1] for i, x in enumerate(inputs))


def test_afpn_joins_one_level_at_a_time():
    neck, maps = prepare("afpn", FOUR, widths=[4, 6, 8, 10])
    maps_by_level = [neck.entries[f"C{i}"](m) for i, m in zip((2, 3, 4, 5), maps, strict=True)]
    for step in (1, 2, 3):
        names = [f"A{i + 2}_{step - 1}" if step > 1 and i < step else f"C{i + 2}" for i in range(4)]
        joined = []
        for i in range(step + 1):
            node = f"A{i + 2}_{step}"
            order = [i, *(j for j in range(step + 1) if j != i)]
            inputs = []
            for j in order:
                edge = neck.resamplers[f"{names[j]}_to_{node}"] if j != i else None
                if j < i:
                    moved = torch.relu(edge.norm(edge.conv(maps_by_level[j])))
                    assert edge.conv.kernel_size == edge.conv.stride == (1 << (i - j),) * 2
                    assert edge.conv.padding[0] == {1: 0, 2: 1, 3: 3}[i - j]
                elif j > i:
                    moved = F.interpolate(edge.project(maps_by_level[j]), scale_factor=1 << (j - i), mode="bilinear", align_corners=False)
                else:
                    moved = maps_by_level[j]
                inputs.append(moved)
            x = neck.blocks[node][0](asymptotic(neck.operators[node], inputs))
            for block in list(neck.blocks[node])[1:]:
                x = torch.relu(block.norm2(block.conv2(torch.relu(block.norm1(block.conv1(x))))) + x)
            joined.append(x)
        maps_by_level[: step + 1] = joined
    same(neck(maps), [neck.blocks[f"P{i + 2}"](x) for i, x in enumerate(maps_by_level)])


def test_asff_reads_every_level_at_every_size():
    neck, maps = prepare("asff")
    entries = [neck.entries[f"C{i}"](m) for i, m in zip((3, 4, 5), maps, strict=True)]
    edges = neck.resamplers
    quarter = edges["C3_to_P5"].steps[1](F.max_pool2d(entries[0], 3, stride=2, padding=1))
    inputs = [entries[2], quarter, edges["C4_to_P5"].steps[0](entries[1])]
    fused = neck.operators["P5"](inputs)
    torch.testing.assert_close(neck(maps)[2], neck.blocks["P5"](fused), **TOLERANCE)
    for operator in neck.operators.values():
        torch.nn.init.zeros_(operator.weight_levels.weight)
        torch.nn.init.zeros_(operator.weight_levels.bias)
    torch.testing.assert_close(neck(maps)[2], neck.blocks["P5"](sum(inputs) / 3), **TOLERANCE)


def test_ssd_levels_in_their_own_widths():
    levels = [LevelSpec("C3", 12, 8), LevelSpec("C4", 20, 16)]
    keys = {"extra__widths": [12, 8, 8, 8], "extra__unpadded": 2}
    neck, maps = prepare("ssd", levels, height=304, width=304, widths=1.0, **keys)
    assert [level.channels for level in neck.levels] == [12, 20, 12, 8, 8, 8]
    found = neck(maps)
    assert [o.shape[-1] for o in found] == [38, 19, 10, 5, 3, 1]
    torch.testing.assert_close(found[0].norm(dim=1), torch.full((2, 38, 38), 20.0))
    assert torch.equal(found[1], maps[1])
    first, second = neck.extra.stages[0]
    torch.testing.assert_close(found[2], torch.relu(second[0](torch.relu(first[0](maps[1])))))
    assert all((o >= 0).all() for o in found[2:])


def test_ssd512_ends_with_a_4x4_convolution():
    levels = [LevelSpec("C3", 12, 8), LevelSpec("C4", 20, 16)]
    keys = {"extra__count": 5, "extra__widths": [12, 8, 8, 8, 8], "extra__last_kernel": 4}
    neck, maps = prepare("ssd", levels, height=512, width=512, widths=1.0, **keys)
    found = neck(maps)
    assert [o.shape[-1] for o in found] == [64, 32, 16, 8, 4, 2, 1]
    (narrow, last) = neck.extra.stages[4]
    torch.testing.assert_close(found[6], F.conv2d(narrow(found[5]), last[0].weight, last[0].bias, padding=1).relu())
    assert neck.approximate == ["P9"]


def test_hypernet_in_the_order_of_the_paper():
    neck, maps = prepare("hypernet_paper", channels=126)
    parts = []
    for level, x in zip(LEVELS, maps, strict=True):
        embed = neck.blocks[f"E{level.name[1:]}"]
        x = x if level.stride == 8 else neck.resamplers[f"{level.name}_to_E{level.name[1:]}"].deconv(x)
        assert x.shape[-2:] == (16, 24)
        parts.append(F.local_response_norm(embed.conv(x).relu(), 5, 1e-4, 0.75))
        assert embed.conv.weight.shape == (42, level.channels, 5, 5)
    same(neck(maps), [torch.cat(parts, dim=1)])


def test_ion_of_the_paper_joins_normalised_maps_by_concatenation_and_1x1():
    neck, maps = prepare("ion_paper")
    inputs = [*maps, neck.blocks["X5"](maps[2])]
    embeds = [neck.blocks[name] for name in ("E3", "E4", "E5", "EX5")]
    for embed in embeds:
        torch.nn.init.uniform_(embed[0].scale, 5, 20)
    scaled = [F.normalize(x, dim=1) * embed[0].scale[:, None, None] for x, embed in zip(inputs, embeds, strict=True)]
    stacked = torch.cat([F.interpolate(x, size=(16, 24), mode="bilinear", align_corners=False) for x in scaled], dim=1)
    weight, bias = torch.cat([embed[1].weight for embed in embeds], dim=1), sum(embed[1].bias for embed in embeds)
    same(neck(maps), [F.conv2d(stacked, weight, bias)])


def test_hypernet_stacks_three_times_42_channels_at_the_finest_stride():
    neck, maps = prepare("hypernet", channels=126)
    (found,) = neck(maps)
    assert found.shape == (2, 126, 16, 24)
    assert neck.levels == (LevelSpec("P3", 126, 8),)
    assert "P3" not in neck.blocks or not list(neck.blocks["P3"].parameters())
    own = neck.entries["C3"]
    torch.testing.assert_close(found[:, :42], F.local_response_norm(own.conv(maps[0]).relu(), 5, 1e-4, 0.75))


def test_ion_reads_the_plain_and_the_enriched_deepest_level():
    neck, maps = prepare("ion")
    assert neck.plan.nodes[-1].inputs == ("C3", "C4", "C5", "X5")
    assert neck.operators["P3"].num_inputs == 4
    assert neck.context is None
    assert len(neck.blocks["X5"].joins) == 2
    assert [o.shape[-2:] for o in neck(maps)] == [(16, 24)]


def test_mscnn_on_a_vgg_has_the_convolution_conv6_1():
    levels = [LevelSpec("C3", 20, 8), LevelSpec("C4", 20, 16)]
    neck, maps = prepare("mscnn", levels, channels=20, extra__count=2, extra__convolved=1)
    found = neck(maps)
    (conv, _, _) = neck.extra.convolutions[0]
    assert torch.equal(found[1], maps[1])
    torch.testing.assert_close(found[2], F.conv2d(F.max_pool2d(maps[1], 2), conv.weight, conv.bias, padding=1).relu())
    assert torch.equal(found[3], F.max_pool2d(found[2], 2))
    assert [level.stride for level in neck.levels] == [8, 16, 32, 64]


def test_mscnn_buffers_the_finest_level_and_pools_one_more():
    neck, maps = prepare("mscnn", channels=20)
    found = neck(maps)
    torch.testing.assert_close(found[0], torch.relu(F.conv2d(maps[0], neck.entries["C3"][0].weight, padding=1)))
    assert torch.equal(found[1], maps[1])
    assert torch.equal(found[3], F.max_pool2d(found[2], 2))
    assert [level.stride for level in neck.levels] == [8, 16, 32, 64]
