"""A rank of `srp check cluster`, as torchrun starts it: compare and measure with the others; rank 0 prints."""

import argparse
import os
import platform
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist

from megatron_srp.errors import OutputError, SrpError
from megatron_srp.training.checks.addresses import local_address
from megatron_srp.training.flags.presets import find_preset
from megatron_srp.training.preflight.network import AllReduce, gather, measure_all_reduce, meet
from megatron_srp.training.preflight.shared_folder import check_shared
from megatron_srp.training.preflight.space import check_space
from megatron_srp.training.process.exits import exit_alone, exit_together, rank

SLOW_GB_S = 5.0  # below it NCCL has probably chosen a slow interface: a 100 Gbit/s link has 12


@dataclass(frozen=True)
class Place:
    """Where a rank runs; `device` is its GPU's name, None without one."""

    node: int
    host: str
    address: str
    device: str | None


def main() -> None:
    """Check; ends the process with the error's code where something is wrong."""
    args = _parse()
    try:
        meet()
    except SrpError as error:
        exit_alone(error)
    try:
        _check(args)
    except SrpError as error:
        exit_together(error)
    dist.destroy_process_group()  # else its threads abort Python's exit


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path)
    parser.add_argument("--preset")
    parser.add_argument("--checkpoints", type=int)
    return parser.parse_args()


def _check(args: argparse.Namespace) -> None:
    places = gather(_place())
    _say("nodes", *_describe(places))
    _say("versions", "equal, and so are the clocks, within a minute")  # the launchers have compared them
    _check_devices(places)
    if args.out is not None:
        _check_folder(args, places)
    if len(places) > 1:
        _say("all-reduce", *_describe_speed(measure_all_reduce("nccl" if places[0].device else "gloo")))


def _place() -> Place:
    local = int(os.environ["LOCAL_RANK"])
    device = torch.cuda.get_device_name(local) if local < torch.cuda.device_count() else None
    address = local_address(os.environ["MASTER_ADDR"])
    return Place(int(os.environ["GROUP_RANK"]), platform.node(), address, device)


def _describe(places: list[Place]) -> list[str]:
    counts = {place: places.count(place) for place in places}
    return [
        f"node {place.node}: {place.host}, {place.address}, {count} x {place.device or 'CPU'}"
        for place, count in counts.items()
    ]


def _check_devices(places: list[Place]) -> None:
    without = [number for number, place in enumerate(places) if place.device is None]
    if without and len(without) < len(places):
        host = places[without[0]].host
        raise OutputError(
            f"rank {without[0]} on {host} sees no GPU, and other ranks do; see nvidia-smi there, and "
            "`srp check environment`"
        )


def _check_folder(args: argparse.Namespace, places: list[Place]) -> None:
    node, nodes = int(os.environ["GROUP_RANK"]), places[-1].node + 1
    lockable = check_shared(args.out, node, nodes, is_first=os.environ["LOCAL_RANK"] == "0")
    _say("folder", f"{args.out} can be written and is the same on all nodes")
    if not lockable:
        _say("note", "files there cannot be locked: mount it with flock, or see that no two jobs write one result")
    if args.preset is not None:
        _say("space", check_space(args.out, find_preset(args.preset), args.checkpoints))


def _describe_speed(found: AllReduce) -> list[str]:
    lines = [
        f"{found.backend}, {found.megabytes} MB on {found.ranks} ranks: {1000 * found.mean_s:.1f} ms, "
        f"{found.bandwidth:.1f} GB/s a rank; the first took {found.first_s:.1f} s"
    ]
    if found.backend == "nccl" and found.bandwidth < SLOW_GB_S:
        lines.append("slow: NCCL_DEBUG=INFO shows the interface, NCCL_SOCKET_IFNAME and NCCL_IB_HCA choose another")
    return lines


def _say(name: str, *lines: str) -> None:
    if rank() == 0:
        for line in lines:
            print(f"{name:10}  {line}", flush=True)
            name = ""


if __name__ == "__main__":
    main()
