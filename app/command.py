"""`mf2 app`: a checkpoint in a browser, on this machine."""

import argparse
import importlib.util
from pathlib import Path
from tempfile import TemporaryDirectory

from ..analysis.face_arguments import DETECT, MEAN_FACE, FaceSearch
from ..hub.sources import DEFAULT_MODEL, check_model_source
from .settings import AppSettings, Limits


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `mf2 app`."""
    parser.epilog = (
        "The page is for this machine; --host 0.0.0.0 opens it to the network. Without a face detector that is ready "
        "(see `mf2 detectors`) every picture is taken as a face crop."
    )
    add = parser.add_argument
    add("--model", default=DEFAULT_MODEL, help="folder or Hub repository of a checkpoint [%(default)s]")
    add("--adapter", action="append", default=[], help="also ask this DFN adapter; any number of times, in one pass")
    add("--examples", type=Path, metavar="DIR", help="pictures to try and to search [generated faces]")
    add("--title", default="", help="headline of the page [the name of the model]")
    add("--device", help="cpu, cuda, cuda:1, mps, … [an accelerator if there is one]")
    faces = parser.add_argument_group("where the faces are").add_argument
    faces("--landmarks", choices=(DETECT, MEAN_FACE), default=DETECT, help="find faces, or take every picture as one")
    faces("--backend", help="detector: its name, or module:factory of your own; see `mf2 detectors`")
    faces("--model_file", metavar="FILE", help="model of the detector, where it reads one")
    serving = parser.add_argument_group("how it is served").add_argument
    serving("--host", default="127.0.0.1", help="[%(default)s]")
    serving("--port", type=int, help="[the first free one from 7860]")
    serving("--open", action="store_true", help="open a browser")
    limits = Limits()
    serving("--upload_mb", type=int, default=limits.upload_mb, metavar="N", help="largest upload [%(default)s]")
    serving("--video_s", type=float, default=limits.video_s, metavar="S", help="longest video [%(default)g]")
    serving("--queue", type=int, default=limits.queue, metavar="N", help="visitors that may wait [%(default)s]")


def run(args: argparse.Namespace) -> int:
    """Load the model, and serve the page until it is interrupted."""
    if min(args.upload_mb, args.video_s, args.queue) <= 0:
        raise ValueError("--upload_mb, --video_s and --queue must be above 0.")
    check_gradio()
    for name in (args.model, *args.adapter):
        check_model_source(name, "mf2 app")
    from .examples import draw_examples, find_examples
    from .page import build_page, launch_options
    from .viewer import Viewer

    settings = AppSettings(
        model=args.model,
        adapters=tuple(args.adapter),
        title=args.title,
        device=args.device,
        faces=FaceSearch(args.landmarks, args.backend, args.model_file),
        examples=args.examples,
        limits=Limits(upload_mb=args.upload_mb, video_s=args.video_s, queue=args.queue),
    )
    with TemporaryDirectory(prefix="mf2-app-") as folder:
        examples = find_examples(args.examples) if args.examples else draw_examples(Path(folder))
        page = build_page(Viewer.load(settings, examples), settings, Path(folder, "index"))
        address = {"server_name": args.host, "server_port": args.port, "inbrowser": args.open}
        page.launch(**launch_options(settings), **address)
    return 0


def check_gradio() -> None:
    """Raise an `ImportError` where the extra of the page is not installed."""
    if importlib.util.find_spec("gradio") is None:
        raise ImportError("mf2 app needs Gradio: pip install 'mf2-face[app]'.")
