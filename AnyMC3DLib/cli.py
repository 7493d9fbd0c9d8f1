"""The `anymc3d` command: its arguments and exit codes. The work is in `commands`, imported when it is needed.

Exit codes: 0 done, 1 the input was at fault (one sentence), 2 usage.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import logging
import os
import sys
from collections.abc import Sequence

from . import __version__
from .arguments import at_least, seed
from .commands import backbone, benchmark, manifest
from .errors import AnyMC3DError
from .wording import one_line

DESCRIPTION = "Classify 3D medical images with task plugins on one frozen 2D backbone. Research only."
ONE_STUDY = ("region", "heatmap", "heatmap_grid", "report", "json")
MANY_STUDIES = ("out", "heatmaps")
REVISABLE = ("name", "version", "description", "licence", "intended_use")


def run() -> None:
    """The console script."""
    sys.exit(main(sys.argv[1:]))


def main(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.command is None:
        parser.print_help()
        return 2
    if "check" in options:
        options.check(options)
    logging.basicConfig(
        level=logging.INFO if options.verbose else logging.WARNING, format="%(name)s: %(message)s", stream=sys.stderr
    )
    try:
        module = importlib.import_module(f".commands.{options.module}", __package__)
        getattr(module, options.function)(options)
        sys.stdout.flush()
    except AnyMC3DError as error:
        sys.stderr.write(f"anymc3d: {one_line(str(error))}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("anymc3d: stopped.\n")
        return 130
    except BrokenPipeError:
        # The reader of the output left, `| head` for instance; Python would complain again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        where = f" '{one_line(str(error.filename))}'" if error.filename else ""
        sys.stderr.write(f"anymc3d: The system refused{where}: {error.strerror or error}.\n")
        return 1
    except (MemoryError, RuntimeError) as error:
        # torch's own class is not imported here, to keep help quick.
        if not isinstance(error, MemoryError) and type(error).__name__ != "OutOfMemoryError":
            raise
        sys.stderr.write(
            "anymc3d: The memory is not enough for this study: close other programs, or use --device cpu.\n"
        )
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="anymc3d", description=DESCRIPTION)
    parser.add_argument("--version", action="version", version=f"anymc3d {__version__}")
    parser.add_argument("--verbose", action="store_true", help="tell more on standard error")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    _add_classify(commands)
    _add_train(commands)
    _add_evaluate(commands)
    manifest.add_parser(commands)
    _add_plugin(commands)
    _add_backbones(commands)
    backbone.add_parser(commands)
    _add_demo(commands)
    _add_bench(commands)
    benchmark.add_parser(commands)
    return parser


def _add(commands: argparse._SubParsersAction, name: str, function: str, text: str) -> argparse.ArgumentParser:
    module, _, attribute = function.partition(":")
    parser = commands.add_parser(name, help=text, description=text)
    parser.set_defaults(module=module, function=attribute)
    return parser


def _add_computing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--weights", metavar="FILE", help="the backbone's weights (safetensors or pth)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default: %(default)s)")


def _add_deterministic(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--deterministic", action="store_true", help="the same bits each time on this machine; often slower"
    )


def _add_classify(commands: argparse._SubParsersAction) -> None:
    parser = _add(commands, "classify", "classify:classify", "Classify a study, or a table of them, with plugins.")
    parser.add_argument(
        "images",
        nargs="*",
        metavar="[NAME=]IMAGE",
        help="NIfTI, NRRD or MetaImage file, picture, or DICOM folder; NAME says which image of the plugin it is",
    )
    parser.add_argument("--plugin", action="append", required=True, metavar="FILE", help="may come more than once")
    parser.add_argument(
        "--region",
        action="append",
        default=[],
        metavar="[NAME=]REGION",
        help="where to look: 'box:R,A,S,R,A,S' (low and high corner, mm) or a segmentation 'FILE[:LABEL]'",
    )
    parser.add_argument(
        "--heatmap", metavar="FILE", help="write a class's heatmap on the input's grid (.nrrd, .nii.gz)"
    )
    parser.add_argument(
        "--heatmap-class",
        metavar="CLASS",
        help="a class, or 'attention' for the paper's map; default: the class decided for",
    )
    parser.add_argument("--heatmap-grid", metavar="NAME", help="the image whose grid to use (default: the first)")
    parser.add_argument("--report", metavar="FOLDER", help="write an HTML page with pictures, a CSV and a JSON file")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument(
        "--precision",
        choices=["auto", "float32", "bfloat16", "float16"],
        default="auto",
        help="default: what the device is good at, float32 on a CPU",
    )
    _add_computing(parser)
    _add_deterministic(parser)
    many = parser.add_argument_group(
        "many studies",
        "Run again to go on where it stopped. Several processes share the work: accelerate launch or torchrun, "
        "with -m AnyMC3DLib.cli in the place of the command.",
    )
    many.add_argument("--manifest", metavar="TABLE", help="a CSV with the columns case and NAME of each image")
    many.add_argument("--out", metavar="FOLDER", help="where results.csv, failures.csv and a file a case go")
    many.add_argument(
        "--heatmaps", action="store_true", help="write the heatmaps of the classes decided for, or of --heatmap-class"
    )
    parser.set_defaults(check=functools.partial(_check_classify, parser))


def _check_classify(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """End as a wrong use what belongs to one study beside a table of them, and the other way round."""
    given = {name for name, value in vars(options).items() if value}
    unfit = ONE_STUDY if options.manifest else MANY_STUDIES
    found = [f"--{name.replace('_', '-')}" for name in unfit if name in given]
    if found:
        parser.error(f"{found[0]} does not go {'with' if options.manifest else 'without'} --manifest")
    if bool(options.images) == bool(options.manifest):
        parser.error("give either images or --manifest")
    if options.manifest:
        if not options.out:
            parser.error("--manifest needs --out")
        if options.heatmap_class and not options.heatmaps:
            parser.error("--heatmap-class needs --heatmaps")
        options.module, options.function = "cohort", "classify_table"


def _add_train(commands: argparse._SubParsersAction) -> None:
    parser = _add(
        commands, "train", "train:train",
        "Train a plugin. Several processes share the work: torchrun or accelerate launch, with -m AnyMC3DLib.cli in "
        "the place of the command.",
    )  # fmt: skip
    parser.add_argument("--task", required=True, metavar="FILE", help="a task file (JSON), or the name of one shipped")
    parser.add_argument("--data", required=True, metavar="FILE", help="a MedMNIST .npz file, or a table of cases")
    parser.add_argument("--out", metavar="FILE", help="the plugin file to write (default: plugin.safetensors in --run)")
    parser.add_argument(
        "--method",
        choices=("lora", "frozen", "probe", "full"),
        help="adapters; fusion and head alone; a linear layer alone; the whole backbone (default: the task's)",
    )
    parser.add_argument("--frozen", action="store_true", help="as --method frozen")
    parser.add_argument("--backbone", metavar="NAME", help="another backbone than the task's")
    parser.add_argument("--seed", type=seed, metavar="N", help="another seed than the task's")
    parser.add_argument(
        "--step",
        choices=("auto", "speed", "memory"),
        default="auto",
        help="'speed' keeps more in memory, 'memory' computes twice; default: what fits",
    )
    parser.add_argument("--train-splits", default="train", metavar="LIST", help="default: %(default)s")
    parser.add_argument(
        "--val-splits", default="val", metavar="LIST", help="default: %(default)s; '' keeps the last weights"
    )
    parser.add_argument("--test-splits", default="", metavar="LIST", help="measured once, at the end (default: none)")
    parser.add_argument("--folds", type=at_least(2), metavar="K", help="cross-validate by patient: K members in one")
    parser.add_argument(
        "--allow-unreadable",
        type=at_least(0),
        default=0,
        metavar="N",
        help="leave out so many that cannot be read",
    )
    _add_computing(parser)
    _add_deterministic(parser)
    kept = parser.add_argument_group("a run that is kept")
    kept.add_argument("--run", metavar="FOLDER", help="where the state, the predictions and the figures go")
    kept.add_argument("--resume", action="store_true", help="go on with the run in that folder")
    kept.add_argument("--every", type=float, default=5.0, metavar="MINUTES", help="between states (default: 5)")
    kept.add_argument("--cache", metavar="FOLDER", help="where slices that were cut once are kept for other runs")
    kept.add_argument("--cache-gb", type=float, default=20.0, metavar="GB", help="at most (default: 20)")
    parser.set_defaults(check=functools.partial(_check_train, parser))


def _check_train(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    if not (options.out or options.run):
        parser.error("give --out, --run or both")
    if options.resume and not options.run:
        parser.error("--resume needs --run")
    if options.frozen and options.method not in (None, "frozen"):
        parser.error(f"--frozen does not go with --method {options.method}")
    if options.folds and options.test_splits:
        parser.error("--test-splits does not go with --folds: measure the ensemble with anymc3d evaluate")


def _add_evaluate(commands: argparse._SubParsersAction) -> None:
    parser = _add(commands, "evaluate", "train:evaluate", "Measure a plugin on labelled data.")
    parser.add_argument("--plugin", required=True, metavar="FILE")
    parser.add_argument("--data", required=True, metavar="FILE", help="a MedMNIST .npz file, or a CSV table of files")
    parser.add_argument("--splits", default="test", metavar="LIST", help="default: %(default)s")
    parser.add_argument("--against", metavar="FILE", help="another plugin, for the paired difference in AUC")
    parser.add_argument("--predictions", metavar="FILE", help="write the probabilities as CSV")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    _add_computing(parser)
    _add_deterministic(parser)


def _add_plugin(commands: argparse._SubParsersAction) -> None:
    text = "Look at a plugin file, or change what it says."
    parser = commands.add_parser("plugin", help=text, description=text)
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    show = _add(actions, "show", "plugin:show_card", "Show what a plugin is; needs no backbone.")
    show.add_argument("file", metavar="FILE")
    show.add_argument("--json", action="store_true", help="print JSON instead of a card")
    verify = _add(actions, "verify", "plugin:verify", "Check that a plugin is whole and fits its backbone.")
    verify.add_argument("file", metavar="FILE")
    verify.add_argument("--backbone", metavar="NAME", help="try it on this backbone instead of the one it names")
    _add_computing(verify)
    _add_edit(actions)
    learn = _add(
        actions, "learn-scope", "plugin:learn_scope", "Tell a plugin which studies it has learnt from."
    )  # fmt: skip
    learn.add_argument("file", metavar="FILE")
    learn.add_argument("--data", required=True, metavar="FILE", help="the data it was trained on")
    learn.add_argument("--out", metavar="FILE", help="write here instead of to FILE itself")
    learn.add_argument("--train-splits", default="train", metavar="LIST", help="default: %(default)s")
    learn.add_argument(
        "--val-splits", default="val", metavar="LIST", help="studies that taught it nothing; default: %(default)s"
    )
    _add_computing(learn)


def _add_edit(actions: argparse._SubParsersAction) -> None:
    edit = _add(
        actions, "edit", "plugin:edit", "Change what a plugin says and where it decides; its weights stay as they are."
    )
    edit.add_argument("file", metavar="FILE")
    edit.add_argument("--out", metavar="FILE", help="write another file (default: in place)")
    for name in REVISABLE:
        edit.add_argument(f"--{name.replace('_', '-')}", metavar="TEXT")
    edit.add_argument(
        "--threshold",
        action="append",
        default=[],
        type=_named_number,
        metavar="CLASS=VALUE",
        help="the probability from which it decides for the class; may come more than once",
    )
    edit.set_defaults(check=functools.partial(_check_edit, edit))


def _check_edit(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    if not options.threshold and all(getattr(options, name) is None for name in REVISABLE):
        parser.error("give what to change")


def _named_number(text: str) -> tuple[str, float]:
    """CLASS=VALUE; the class itself may hold the sign."""
    name, _, value = text.rpartition("=")
    if not name:
        raise argparse.ArgumentTypeError("a class, the sign =, and a number")
    return name, float(value)


def _add_backbones(commands: argparse._SubParsersAction) -> None:
    parser = _add(commands, "backbones", "backbones:show_list", "List the backbones.")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def _add_bench(commands: argparse._SubParsersAction) -> None:
    parser = _add(commands, "bench", "bench:bench", "Measure speed and memory on this machine (minutes; needs peft).")
    parser.add_argument("--model", default="vit_small_patch16_224", metavar="NAME", help="default: %(default)s")
    parser.add_argument("--slices", type=at_least(1), default=64, metavar="N", help="default: %(default)s")
    parser.add_argument("--repeats", type=at_least(1), default=5, metavar="N", help="default: %(default)s")
    parser.add_argument("--threads", type=at_least(1), default=2, metavar="N", help="of the CPU (default: %(default)s)")
    parser.add_argument("--only", default="", metavar="LIST", help="floor,plugins,loaded,swap,worker,training,gpu")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--out", metavar="FILE", help="also write the JSON to a file")


def _add_demo(commands: argparse._SubParsersAction) -> None:
    parser = _add(commands, "demo", "demo:demo", "Train on made-up heads, classify unseen ones, and show the heat.")
    parser.add_argument("--output", default="demo-output", metavar="FOLDER", help="default: %(default)s")
    parser.add_argument("--seed", type=seed, default=0, metavar="N")
    _add_computing(parser)


if __name__ == "__main__":
    run()
