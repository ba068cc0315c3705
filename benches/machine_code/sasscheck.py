#!/usr/bin/env python3
"""Static performance report for compiled CUDA kernels, read from their SASS; no GPU is needed.

For each kernel: registers, shared memory, stack, spills, occupancy, and for each innermost loop
the instruction mix, the cycles every pipe of one SM sub-partition needs per iteration and warp,
the limiting pipe, the tensor fraction bound, and a replay of the loop in ptxas's own schedule.

All cycles are per sub-partition (an SM has four) and per warp; a unit that the whole SM shares,
such as shared memory at 128 B/clk, is charged at a quarter of its rate.

Sources of the rates below
 [G] CUDA Programming / Best Practices Guide, "Throughput of Native Arithmetic Instructions"
     (results per clock per SM; a warp instruction takes 128 / that many sub-partition cycles).
 [N] Nsight Compute, "Pipelines": F2FP and FMNMX run on ALU, IMAD on FMA-heavy, SHFL on LSU.
 [A] A100 whitepaper: 1024 dense f16 FMA/clk/SM. H100: twice that per SM, with wgmma only;
     mma.sync reaches about 2/3 of it (FlashAttention-3 paper; Luo et al. 2402.13499: 62.9 %).
 [D] GeForce tensor rates follow from the data sheets: RTX 3090 71, 4090 165, 5090 209 TFLOPS for
     f16 with f32 accumulate, all 256 FMA/clk/SM; the workstation parts (A6000, L40S, RTX PRO 6000)
     do 512 (--full-rate). B200: 2.25 PFLOPS = 4096 FMA/clk/SM with tcgen05; mma.sync unpublished.
 [M] cicuvc/nvidia-sass-document, measured on A100 and H100: ALU 2.0, IMAD 2.0, IMAD.WIDE/HI 4.0,
     F2FP 2.0, HFMA2 2.0, FFMA 2.0 (A100) or 1.0 (H100), MUFU 8.0 cycles per warp instruction.
 [O] cuda_occupancy.h of CUDA 13.
"""
import argparse
import collections
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass


@dataclass(frozen=True)
class Arch:
    warps: int               # resident warps per SM [O]
    blocks: int              # resident blocks per SM [O]
    smem: int                # shared memory per SM, KiB [O]
    peak: int                # best dense f16 FMA/clk/SM with f32 accumulate, any instruction [A][D]
    mma: float               # the same for mma.sync
    mma_f16: float           # mma.sync with f16 accumulate
    fp32: int = 128          # FFMA/clk/SM [G]
    fp64: int = 2            # DFMA/clk/SM [G]


ARCHES = {
    80: Arch(64, 32, 164, 1024, 1024, 1024, fp32=64, fp64=32),
    86: Arch(48, 16, 100, 256, 256, 512),
    89: Arch(48, 24, 100, 256, 256, 512),
    90: Arch(64, 32, 228, 2048, 2048 * 2 / 3, 2048 * 2 / 3, fp64=64),
    100: Arch(64, 32, 228, 4096, 1024, 1024, fp64=64),
    120: Arch(48, 24, 100, 256, 256, 512),
}
REGISTERS = 65536            # per SM, allocated 256 per warp [O]
RESERVED_SMEM = 1024         # per block since sm_80 [O]
SHAPES = {"16816": 2048, "1688": 1024, "1684": 512, "16832": 4096, "16864": 8192, "8816": 1024,
          "8832": 2048, "884": 256, "168128": 16384, "168256": 32768}     # FMA per instruction

XU = {"MUFU", "F2F", "F2I", "I2F", "FRND", "POPC", "FLO", "BREV", "FCHK"}
FP32 = {"FADD", "FMUL", "FFMA", "FADD32I", "FMUL32I", "FFMA32I", "FSWZADD"}
FP32_ALU = {"FMNMX", "FMNMX3", "FSEL", "FSETP", "FSET"}
FP32X2 = {"FADD2", "FMUL2", "FFMA2"}
FP16 = {"HADD2", "HMUL2", "HFMA2", "HMNMX2", "VHMNMX", "HSET2", "HSETP2", "HADD2_32I", "HMUL2_32I"}
IMAD = {"IMAD", "IMUL", "IMAD32I", "IDP", "IDP4A", "VIADD"}
FP64 = {"DADD", "DMUL", "DFMA", "DSETP", "DMMA"}
CONVERT = {"F2FP", "F2F", "F2I", "I2F", "I2FP", "F2IP", "FRND", "I2I", "I2IP"}
BARRIER = {"BAR", "SYNCS", "WARPSYNC", "DEPBAR", "LDGDEPBAR", "BSSY", "BSYNC", "MEMBAR", "ERRBAR",
           "CCTL", "FENCE", "ARRIVES", "WARPGROUP", "NANOSLEEP", "YIELD", "UCGABAR_ARV", "UCGABAR_WAIT",
           "ACQBULK", "PREEXIT", "ENDCOLLECTIVE"}
BRANCH = {"BRA", "BRX", "JMX", "JMP", "BRXU", "EXIT", "CALL", "RET", "BREAK", "KILL", "BPT", "ELECT"}
TENSOR = {"HMMA", "IMMA", "QMMA", "OMMA", "BMMA", "HGMMA", "QGMMA", "IGMMA", "BGMMA"}
MEMORY = {"LDS": "lds", "STS": "sts", "LDSM": "ldsm", "STSM": "stsm", "ATOMS": "atoms", "SHFL": "shfl",
          "LDG": "ldg", "STG": "stg", "LD": "ld", "ST": "st", "LDGSTS": "ldgsts", "LDL": "ldl",
          "STL": "stl", "ATOMG": "atom", "ATOM": "atom", "RED": "red", "REDG": "red"}
GLOBAL = {"ldg", "stg", "ld", "st", "ldgsts"}
TMA = {"UTMALDG", "UTMASTG", "UTMAREDG", "UBLKCP", "UBLKRED", "UTMAPF"}

# Replay: cycles from issue to result of the variable-latency instructions (published A100 numbers
# rounded; global = a hit in L2), and how far ahead of a busy unit its queue lets a warp run [M].
LATENCY = {"lsu": 28, "shfl": 24, "xu": 20, "global": 250, "local": 35, "other": 20}
QUEUE = {"xu": 16}
LSU_QUEUE = 8
STAGGER = (0.3, 0.7, 1.0, 1.4)  # offsets of the second block tried, in parts of an even stagger; averaged


class ToolError(Exception):
    """Bad input, reported without a traceback."""


@dataclass
class Instr:
    offset: int
    guard: str               # "@P0", or "" without a predicate
    opcode: str
    operands: str
    control: int             # scheduling bits: stall, yield, barriers, wait mask
    kind: str = ""           # class it is counted in
    width: int = 0           # bytes per thread, for memory instructions
    pipes: tuple = ()        # (pipe, sub-partition cycles)

    @property
    def base(self):
        return self.opcode.split(".")[0]

    def target(self):
        found = re.search(r"`\(([^)]+)\)", self.operands)
        return found.group(1) if found else None


def run(tool, *args, cwd=None):
    home = os.environ.get("CUDA_HOME")
    path = os.path.join(home, "bin", tool) if home else shutil.which(tool)
    if not path or not os.path.exists(path):
        raise ToolError(f"{tool} not found: set CUDA_HOME or put it on PATH")
    done = subprocess.run([path, *args], capture_output=True, text=True, cwd=cwd)
    if done.returncode:
        raise ToolError(f"{tool} failed: {(done.stderr or done.stdout).strip()[:300]}")
    return done.stdout


# ---------------------------------------------------------------------------------- reading SASS

def access_width(ins):
    """Bytes per thread of a memory instruction."""
    parts = ins.opcode.split(".")
    if ins.base in ("LDSM", "STSM"):
        return {"4": 16, "2": 8}.get(parts[-1], 4)
    if ins.base == "SHFL":
        return 4
    for part in parts[1:]:
        if part in ("256", "128", "64"):
            return int(part) // 8
        if part in ("U8", "S8"):
            return 1
        if part in ("U16", "S16"):
            return 2
    return 4


def tensor_cycles(ins, spec):
    parts = ins.opcode.split(".")
    narrow = 2 if ins.base[0] in "QI" else 1                # 8-bit types: twice the f16 rate
    wide = 0.5 if "TF32" in parts else 1
    group = re.match(r"(\d+)x(\d+)x(\d+)", parts[1]) if len(parts) > 1 else None
    if group:                                               # wgmma: four warps, all four tensor cores
        m, n, k = map(int, group.groups())
        return m * n * k / (spec.peak * narrow * wide)
    fma = next((SHAPES[p] for p in parts[1:] if p in SHAPES), 2048)
    rate = spec.mma_f16 if "F16" in parts[1:3] and "F32" not in parts else spec.mma
    return fma / (rate / 4 * narrow * wide)


def classify(ins, sm, spec):
    """Sets the class, width and pipe cost of an instruction."""
    base, op, lanes = ins.base, ins.opcode, spec.fp32 // 4
    fma = 32 // lanes
    if base in TENSOR:
        ins.kind, ins.pipes = "tensor", (("tensor", tensor_cycles(ins, spec)),)
    elif base in MEMORY:
        ins.width = access_width(ins)
        ins.kind, ins.pipes = MEMORY[base], (("lsu", max(4, ins.width)),)
    elif base in TMA:
        ins.kind = "tma"
    elif base in XU:
        ins.kind = op.lower() if base == "MUFU" else "convert" if base in CONVERT else "int"
        ins.pipes = (("xu", 8),)
    elif base in FP32:
        ins.kind, ins.pipes = "fp32", (("fma", fma),)
    elif base in FP32X2:
        ins.kind, ins.pipes = "fp32x2", (("fma", 2 * fma),)
    elif base in FP16:
        ins.kind = "fp16x2"
        if op.startswith("HFMA2.MMA") and sm in (80, 90):
            ins.pipes = (("fp64", 2),)
        else:
            ins.pipes = (("fp16", 2),) if sm == 80 else (("fmaheavy", 2), ("fma", 2))
    elif base in IMAD:
        cost = 4 if re.search(r"\.(WIDE|HI)\b", op) else 2
        ins.kind = "imad"
        ins.pipes = (("fma", cost),) if sm == 80 else (("fmaheavy", cost), ("fma", cost / 2))
    elif base in FP64:
        ins.kind, ins.pipes = "fp64", (("fp64", 128 / spec.fp64),)
    elif base in BARRIER:
        ins.kind = "barrier"
    elif base in BRANCH:
        ins.kind = "branch"
    elif base in ("LDC", "LDCU", "ULDC"):
        ins.kind = "const"
    elif base in ("R2UR", "S2UR", "REDUX", "VOTEU") or base[0] == "U":
        ins.kind = "uniform"
    elif base in ("S2R", "CS2R", "NOP", "B2R", "R2B", "BMOV", "LEPC"):
        ins.kind = "other"
    else:                                                   # everything left is ALU work
        ins.kind = "convert" if base in CONVERT else "fp32-alu" if base in FP32_ALU else "int"
        fast = base in ("IADD", "IADD3", "IMNMX", "VIMNMX") if sm == 120 else sm == 100 and base.startswith("FMNMX")
        ins.pipes = (("alu", 1 if fast else 2),)


LINE = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(@!?U?P[T\d]+\s+)?([A-Z][\w.]*)\s*(.*?)\s*;\s+/\* 0x[0-9a-f]{16} \*/")
HIGH = re.compile(r"^\s+/\* 0x([0-9a-f]{16}) \*/")


def disassemble(cubin):
    """{function: (instructions, {label: offset})} and the architecture of a cubin."""
    functions, sm, code, labels, pending = {}, None, None, None, []
    for line in run("nvdisasm", "-c", "-hex", cubin).splitlines():
        if found := LINE.match(line):
            offset = int(found.group(1), 16)
            for label in pending:
                labels[label] = offset
            pending = []
            code.append(Instr(offset, (found.group(2) or "").strip(), found.group(3), found.group(4), 0))
        elif code and (found := HIGH.match(line)):
            code[-1].control = int(found.group(1), 16) >> 41
        elif found := re.match(r"\s*\.section\s+\.text\.([^,\s]+)", line):
            code, labels, pending = [], {}, []
            functions[found.group(1)] = (code, labels)
        elif found := re.match(r"^([.\w$]+):$", line):
            pending.append(found.group(1))
        elif found := re.match(r"\s*\.target\s+sm_(\d+)", line):
            sm = int(found.group(1))
    if sm is None or sm < 70:
        raise ToolError(f"{cubin}: needs code for sm_70 or newer")
    return functions, sm


def resources(cubin):
    """{function: registers, stack, shared, threads and spill offsets} from the ELF attributes."""
    out, name = {}, None
    for line in run("cuobjdump", "--dump-resource-usage", cubin).splitlines():
        if found := re.match(r"\s*Function\s+(\S+):", line):
            name = found.group(1)
        elif name and (found := re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+)", line)):
            reg, stack, shared = map(int, found.groups())
            out[name] = {"registers": reg, "stack": stack, "shared": shared, "max_threads": None, "spills": []}
            name = None
    section = attribute = None
    for line in run("cuobjdump", "-elf", cubin).splitlines():
        if found := re.match(r"\.nv\.info\.(\S+)", line):
            section, attribute = out.get(found.group(1)), None
        elif re.match(r"\.\w", line):
            section = None
        elif section is None:
            continue
        elif "Attribute:" in line:
            attribute = line.split()[-1]
        elif "SpillRefill" in line:
            section["spills"].append(int(line.split()[-1], 16))
        elif attribute in ("EIATTR_MAX_THREADS", "EIATTR_REQNTID") and "Value:" in line:
            x, y, z = (int(v, 16) for v in line.split()[1:4])
            section["max_threads"] = x * y * z
    return out


# ------------------------------------------------------------------------------------ control flow

def blocks_of(code, labels):
    """Basic blocks as (first, last) instruction indices, and their successors."""
    at = {ins.offset: i for i, ins in enumerate(code)}
    goal = [at.get(labels.get(ins.target() or "", -1)) for ins in code]
    regions = collections.defaultdict(list)                 # convergence barrier -> its targets
    for ins, to in zip(code, goal):
        if ins.base == "BSSY" and to is not None:
            regions[ins.operands.split(",")[0]].append(to)
    ends = {i for i, (ins, to) in enumerate(zip(code, goal)) if ins.base in ("BRA", "BRX", "JMX", "BRXU", "EXIT", "RET", "BSYNC", "JMP")
            or to is not None and ins.base == "CALL"}
    heads = sorted({0} | {i + 1 for i in ends if i + 1 < len(code)} | {t for t in goal if t is not None})
    blocks = [(a, b - 1) for a, b in zip(heads, heads[1:] + [len(code)])]
    index = {first: n for n, (first, _) in enumerate(blocks)}
    succ = []
    for _, last in blocks:
        ins, to = code[last], []
        conditional = bool(ins.guard) or "," in ins.operands
        if ins.base == "BRA" and ".DIV" not in ins.opcode:  # .DIV leads to a cold path
            to = [goal[last]] + ([last + 1] if conditional else [])
        elif ins.base == "CALL" and goal[last] is not None:     # to a place in the same function: a jump
            to = [goal[last]] + ([last + 1] if ins.guard else [])
        elif ins.base == "BSYNC":
            joins = regions[ins.operands.split(",")[0]]
            to = joins if joins and last + 1 not in joins else [last + 1]
        elif ins.base in ("EXIT", "RET", "BRX", "JMX", "BRXU", "JMP"):
            to = [last + 1] if ins.guard else []
        else:
            to = [last + 1]
        succ.append([index[t] for t in to if t is not None and t in index])
    return blocks, succ


def flow_order(succ):
    """The blocks that are reached, each before those that it leads to but for the way back in a loop."""
    order, state, stack = [], {0: 0}, [0]
    while stack:                                            # depth first, post order
        node = stack[-1]
        if state[node] < len(succ[node]):
            child = succ[node][state[node]]
            state[node] += 1
            if child not in state:
                state[child] = 0
                stack.append(child)
        else:
            order.append(stack.pop())
    return order[::-1]


def natural_loops(succ):
    """{header: blocks} of every natural loop (a back edge goes to a dominator), in flow order."""
    order = flow_order(succ)
    rank = {node: i for i, node in enumerate(order)}
    pred = collections.defaultdict(list)
    for node in order:
        for child in succ[node]:
            pred[child].append(node)
    idom, changed = {0: 0}, True
    while changed:                                          # Cooper, Harvey and Kennedy
        changed = False
        for node in order[1:]:
            new = None
            for p in (p for p in pred[node] if p in idom):
                if new is None:
                    new = p
                    continue
                while p != new:
                    while rank[p] > rank[new]:
                        p = idom[p]
                    while rank[new] > rank[p]:
                        new = idom[new]
            if idom.get(node) != new:
                idom[node], changed = new, True

    def dominates(a, b):
        while b != a and b != 0:
            b = idom[b]
        return a == b

    loops = {}
    for node in order:
        for head in succ[node]:
            if dominates(head, node):
                body, work = loops.setdefault(head, {head}), [node]
                while work:
                    b = work.pop()
                    if b not in body:
                        body.add(b)
                        work += pred[b]
    return {head: sorted(body, key=rank.get) for head, body in loops.items()}


def find_loops(code, labels, every=False):
    """Innermost loops as instruction lists; waits that only spin on a barrier are not loops here."""
    blocks, succ = blocks_of(code, labels)
    loops = {}
    for head, body in natural_loops(succ).items():
        instrs = [code[i] for b in body for i in range(blocks[b][0], blocks[b][1] + 1)]
        spins = any(i.base in ("SYNCS", "NANOSLEEP") or "STRONG" in i.opcode for i in instrs)
        if len(instrs) > 1 and not (spins and len(instrs) <= 16):
            loops[head] = (body, instrs)
    out = []
    for head, (body, instrs) in sorted(loops.items()):
        inner = any(h != head and h in body for h in loops)
        depth = sum(head in b for b, _ in loops.values())
        if every or not inner:
            out.append((depth, not inner, instrs))
    return out


def straightest_way(code, labels):
    """
    The way through a kernel, around no loop, with the fewest instructions for the bytes it moves; where the kernel has
    barriers, one that passes a barrier. (instructions, bytes of global memory per thread), or None if nothing moves.
    """
    blocks, succ = blocks_of(code, labels)
    fewest = [{} for _ in blocks]                           # {(bytes, passes a barrier): instructions before the block}
    fewest[0][0, False] = 0
    ends = {}
    order = flow_order(succ)
    rank = {node: i for i, node in enumerate(order)}
    for n in order:
        first, last = blocks[n]
        body = code[first:last + 1]
        moved = sum(i.width for i in body if i.kind in GLOBAL)
        syncs = any(i.base == "BAR" for i in body)
        leaves = body[-1].base == "EXIT"
        for (so_far, synced), count in fewest[n].items():
            key, count = (so_far + moved, synced or syncs), count + len(body)
            for goal in [ends] * leaves + [fewest[m] for m in succ[n] if rank[m] > rank[n]]:
                goal[key] = min(count, goal.get(key, count))
    has_barriers = any(synced for _, synced in ends)
    ways = [(count, moved) for (moved, synced), count in ends.items() if moved and synced == has_barriers]
    return min(ways, key=lambda way: way[0] / way[1], default=None)


# ---------------------------------------------------------------------------------------- the model

def occupancy(spec, registers, threads, smem):
    """Blocks per SM and what limits them."""
    warps = -(-threads // 32)
    limits = {"warps": spec.warps // warps, "blocks": spec.blocks}
    if registers:
        per_warp = -(-registers * 32 // 256) * 256
        limits["registers"] = REGISTERS // 4 // per_warp * 4 // warps
    limits["smem"] = spec.smem * 1024 // (-(-(smem + RESERVED_SMEM) // 128) * 128)
    blocks = min(limits.values())
    return {"threads": threads, "smem": smem, "blocks": blocks, "warps": blocks * warps,
            "fraction": blocks * warps / spec.warps, "limits": sorted(k for k, v in limits.items() if v == blocks)}


def replay(body, threads, blocks, iterations=10):
    """Cycles per iteration for one block alone and for `blocks` blocks on one SM, when every warp runs
    the loop in ptxas's order and obeys its stall counts and barriers, the pipe rates of its sub-partition
    and the shared memory pipe of the SM. No cache miss and no bank conflict is modelled."""
    steps = []
    for ins in body:
        kind = ("global" if ins.kind in GLOBAL or ins.kind in ("atom", "red") else "local" if ins.kind in ("ldl", "stl")
                else "shfl" if ins.kind == "shfl" else ins.pipes[0][0] if ins.pipes else "other")
        groups = re.search(r",\s*(0x[0-9a-f]+)", ins.operands) if ins.base == "DEPBAR" else None
        steps.append((max(1, ins.control & 15), [b for b in range(6) if ins.control >> 11 & 1 << b], ins.control >> 5 & 7,
                      ins.control >> 8 & 7, ins.pipes, LATENCY.get(kind, LATENCY["other"]), ins.base,
                      int(groups.group(1), 16) if groups else 0))
    per_block = -(-threads // 32)

    def simulate(blocks, offset):
        warps = range(blocks * per_block)
        clock = [offset * (w // per_block) for w in warps]
        done, gates, groups = [0 for _ in warps], [[0] * 6 for _ in warps], [[] for _ in warps]
        free, issued, queued, waiting = collections.Counter(), [0] * 4, [[] for _ in range(4)], set()
        count, start, last, ready = 0, 0, [0] * 4, set(warps)

        def earliest(w):
            part, (_, waits, _, _, pipes, _, base, left) = w % 4, steps[done[w] % len(steps)]
            t = max([clock[w], issued[part] + 1] + [gates[w][b] for b in waits])
            if base == "DEPBAR" and len(groups[w]) > left:
                t = max(t, groups[w][len(groups[w]) - left - 1])
            for pipe, _ in pipes:
                if pipe == "lsu":                           # one unit per SM behind a queue per sub-partition
                    t = max(t, queued[part][-LSU_QUEUE] if len(queued[part]) >= LSU_QUEUE else 0)
                else:
                    t = max(t, free[pipe, part] - QUEUE.get(pipe, 0))
            return t

        while count < iterations * len(warps) * len(steps):
            # greedy, then the youngest warp, as Huerta et al. (2503.20481) found NVIDIA's schedulers to work
            t, _, w = min((earliest(w), -len(warps) if last[w % 4] == w else -w, w) for w in ready)
            part, (stall, _, write, read, pipes, latency, base, _) = w % 4, steps[done[w] % len(steps)]
            begin = issued[part] = t
            for pipe, cost in pipes:
                unit, cost = ("lsu", cost / 4) if pipe == "lsu" else ((pipe, part), cost)
                begin = max(t, free[unit])
                free[unit] = begin + cost
                if pipe == "lsu":
                    queued[part] = queued[part][1 - LSU_QUEUE:] + [begin]
            count += 1
            last[part] = w
            if count == 2 * len(warps) * len(steps):        # the first iterations only warm up
                start = t
            if write < 6:
                gates[w][write] = max(gates[w][write], begin + latency)
            if read < 6:
                gates[w][read] = max(gates[w][read], begin + 12)
            if base == "LDGDEPBAR":
                groups[w] = groups[w][-7:] + [t + LATENCY["global"]]
            clock[w] = t + stall
            done[w] += 1
            if base == "BAR":                               # the warps of a block wait for each other
                waiting.add(w)
                ready.discard(w)
                mates = range(w // per_block * per_block, (w // per_block + 1) * per_block)
                if waiting.issuperset(mates):
                    waiting.difference_update(mates)
                    ready.update(mates)
                    for m in mates:
                        clock[m] = max(clock[m], t + LATENCY["other"])
        return (t - start) / (iterations - 2)

    alone = simulate(1, 0)
    if blocks == 1:
        return alone, alone
    return alone, sum(simulate(blocks, alone * f / blocks) for f in STAGGER) / len(STAGGER)


def analyse_loop(body, spec, shape=None):
    """Counts and bounds of some instructions; shape = (threads per block, blocks per SM) for the replay."""
    counts = collections.Counter()
    pipes = collections.Counter()
    widths = collections.Counter()
    for ins in body:
        sized = ins.kind in MEMORY.values() and ins.kind != "shfl"
        counts[f"{ins.kind}.{ins.width * 8}" if sized else ins.opcode if ins.kind == "tensor" else ins.kind] += 1
        for pipe, cycles in ins.pipes:
            pipes[pipe] += cycles
        if ins.kind in GLOBAL:
            widths[ins.width] += 1
    pipes["issue"] = len(body)
    limiter, worst = max(pipes.items(), key=lambda kv: kv[1])
    moved = sum(w * n for w, n in widths.items())
    out = {"start": body[0].offset, "end": max(i.offset for i in body), "instructions": len(body),
           "counts": dict(counts), "cycles": dict(pipes), "limiter": limiter,
           "global_accesses": sum(widths.values()), "global_bytes_per_thread": moved,
           "load_bytes_per_thread": sum(i.width for i in body if i.kind in ("ldg", "ld", "ldgsts")),
           "share_128bit": sum(n for w, n in widths.items() if w >= 16) / sum(widths.values()) if widths else None,
           "instructions_per_16B": len(body) * 16 / moved if moved else None,
           "bytes_per_clk_sm": moved * 128 / worst}
    if tensor := pipes["tensor"]:
        wgmma = any("GMMA" in i.base for i in body)
        out["tensor_bound"] = tensor / worst
        out["peak_bound"] = out["tensor_bound"] * (1 if wgmma else min(1, spec.mma / spec.peak))
        if shape and not wgmma:
            threads, blocks = shape
            alone, together = replay(body, threads, blocks)
            warps = -(-threads // 32) / 4                   # of one block, per scheduler
            out["replay"] = {"warps_per_scheduler": warps * blocks, "cycles_one_block": alone, "cycles": together,
                             "tensor_one_block": tensor * warps / alone, "tensor": tensor * warps * blocks / together}
    return out


def option_value(options, name, default=None):
    for pattern, value in options:
        if re.search(pattern, name):
            return value
    return default


def analyse(cubin, args):
    functions, built = disassemble(cubin)
    target = args.arch or built
    sm = target if target in ARCHES else {103: 100, 121: 120}.get(target)
    if sm is None:
        raise ToolError(f"no model for sm_{target}; known: {', '.join(map(str, ARCHES))}")
    spec = ARCHES[sm]
    if args.full_rate and sm in (86, 89, 120):
        spec = Arch(spec.warps, spec.blocks, spec.smem, 512, 512, 512)
    usage, names, out = resources(cubin), demangle(functions), []
    for name, (code, labels) in functions.items():
        if name not in usage or not (re.search(args.kernel, name) or re.search(args.kernel, names[name])):
            continue
        for ins in code:
            classify(ins, sm, spec)
        use, both = usage[name], f"{name} {names[name]}"
        smem = max(0, use["shared"] - (RESERVED_SMEM if built >= 90 else 0))
        threads = option_value(args.threads, both) or use["max_threads"]
        occ = occupancy(spec, use["registers"], threads, smem + option_value(args.smem, both, 0)) if threads else None
        shape = (threads, max(1, occ["blocks"])) if occ and not args.no_replay else None
        spills = [i for i in code if i.offset in set(use["spills"])]
        local = [i for i in code if i.kind in ("ldl", "stl")]
        loops = [dict(analyse_loop(body, spec, shape), depth=depth, innermost=inner)
                 for depth, inner, body in find_loops(code, labels, args.all_loops)]
        looped = {i.offset for _, _, body in find_loops(code, labels) for i in body}
        whole, straight = analyse_loop(code, spec), analyse_loop([i for i in code if i.offset not in looped], spec)
        for part in [whole, straight] + loops:                        # if every load of an iteration is issued before the first use
            part["load_bytes_in_flight_sm"] = part["load_bytes_per_thread"] * 32 * occ["warps"] if occ else None
        way = straightest_way(code, labels)
        out.append({
            "file": os.path.basename(cubin), "name": name, "demangled": names[name], "built_for": f"sm_{built}",
            "model": f"sm_{sm}", "registers": use["registers"], "static_smem": smem, "stack": use["stack"],
            "spill_stores": sum(i.kind == "stl" for i in spills), "spill_loads": sum(i.kind == "ldl" for i in spills),
            "spill_bytes": sum(i.width for i in spills), "local_accesses": len(local),
            "max_threads": use["max_threads"], "occupancy": occ, "code": whole, "straight": straight, "loops": loops,
            "straightest_way_per_16B": way and way[0] * 16 / way[1]})
    return out


def demangle(names):
    names = list(names)
    tool = shutil.which("c++filt") or shutil.which("cu++filt")
    if not tool or not names:
        return {n: n for n in names}
    lines = subprocess.run([tool], input="\n".join(names), capture_output=True, text=True).stdout.splitlines()
    return dict(zip(names, lines)) if len(lines) == len(names) else {n: n for n in names}


# -------------------------------------------------------------------------------------------- output

def show(k):
    name = re.sub(r"\(.*", "", k["demangled"])
    print(f"\n== {name[:200]}\n   {k['file']}, built for {k['built_for']}, modelled on {k['model']}")
    print(f"   registers {k['registers']}  static smem {k['static_smem']} B  stack {k['stack']} B  spill stores/loads "
          f"{k['spill_stores']}/{k['spill_loads']} ({k['spill_bytes']} B)  local accesses {k['local_accesses']}  "
          f"max threads {k['max_threads'] or 'not set'}")
    if o := k["occupancy"]:
        print(f"   occupancy {o['fraction']:.0%}: {o['blocks']} blocks x {o['threads']} threads per SM with {o['smem']} B "
              f"smem each, limited by {' and '.join(o['limits'])}")
    else:
        print("   occupancy unknown: give --threads")
    alike = collections.Counter(json.dumps(loop["counts"], sort_keys=True) for loop in k["loops"])
    for loop in [dict(k["code"], title="whole kernel")] + k["loops"]:
        title, copies = loop.get("title"), 0
        if not title:                                       # unrolled copies of one loop are shown once
            copies = alike.pop(json.dumps(loop["counts"], sort_keys=True), 0)
            if not copies:
                continue
            title = f"loop {loop['start']:#x}-{loop['end']:#x} depth {loop['depth']}"
            title += f", {copies} alike" if copies > 1 else ""
        print(f"   -- {title}: {loop['instructions']} instructions")
        print("      " + "  ".join(f"{kind} {n}" for kind, n in sorted(loop["counts"].items(), key=lambda kv: -kv[1])))
        if loop["global_accesses"]:
            print(f"      global: {loop['share_128bit']:.0%} of {loop['global_accesses']} accesses are 128-bit or wider, "
                  f"{loop['instructions_per_16B']:.1f} instructions per 16 B, pipes allow {loop['bytes_per_clk_sm']:.0f} B/clk/SM"
                  + (f", {loop['load_bytes_in_flight_sm'] / 1024:.0f} KiB of loads in flight per SM" if k["occupancy"] else ""))
        if "title" in loop:
            continue
        print("      cycles " + "  ".join(f"{p} {c:.0f}" for p, c in sorted(loop["cycles"].items(), key=lambda kv: -kv[1]))
              + f"  -> limited by {loop['limiter']}")
        if "tensor_bound" in loop:
            print(f"      tensor fraction bound {loop['tensor_bound']:.3f} ({loop['peak_bound']:.3f} of the chip's tensor peak)")
        if r := loop.get("replay"):
            print(f"      replay: one block {r['cycles_one_block']:.0f} cycles ({r['tensor_one_block']:.0%} tensor), "
                  f"{r['warps_per_scheduler']:g} warps/scheduler {r['cycles']:.0f} cycles ({r['tensor']:.0%} tensor)")


def pair(text):
    pattern, _, value = text.rpartition("=")
    try:
        re.compile(pattern)
        return pattern, int(value, 0)
    except (ValueError, re.error) as e:
        raise argparse.ArgumentTypeError(f"'{text}' is not KERNEL_REGEX=NUMBER") from e


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("file", help="cubin, or a fatbin, object or library that holds some")
    ap.add_argument("kernel", nargs="?", default="", help="only kernels whose name matches this regex")
    ap.add_argument("--smem", type=pair, action="append", default=[], metavar="REGEX=BYTES", help="dynamic shared memory")
    ap.add_argument("--threads", type=pair, action="append", default=[], metavar="REGEX=N", help="threads per block")
    ap.add_argument("--arch", type=int, help="model this sm instead of the one the code was built for")
    ap.add_argument("--full-rate", action="store_true", help="sm_86/89/120: f32 accumulate at full rate (not GeForce)")
    ap.add_argument("--all-loops", action="store_true", help="also loops that contain other loops")
    ap.add_argument("--no-replay", action="store_true", help="skip the schedule replay")
    ap.add_argument("--json", action="store_true", help="print JSON")
    args = ap.parse_args()
    try:
        re.compile(args.kernel)
        if not os.path.isfile(args.file):
            raise ToolError(f"no such file: {args.file}")
        with open(args.file, "rb") as f:
            head = f.read(20)
        with tempfile.TemporaryDirectory() as tmp:
            cubins = [args.file]
            if not (head[:4] == b"\x7fELF" and head[18:20] == b"\xbe\x00"):     # not EM_CUDA
                run("cuobjdump", "-xelf", "all", os.path.abspath(args.file), cwd=tmp)
                cubins = sorted(os.path.join(tmp, f) for f in os.listdir(tmp))
            kernels = [k for c in cubins for k in analyse(c, args)]
        if not kernels:
            raise ToolError(f"no kernel matches '{args.kernel}' in {args.file}")
    except (ToolError, re.error) as e:
        sys.exit(f"sasscheck: {e}")
    if args.json:
        json.dump(kernels, sys.stdout, indent=1)
        print()
    else:
        for k in kernels:
            show(k)


if __name__ == "__main__":
    main()
