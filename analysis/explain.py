"""`mf2 explain`: shows what a model recognises in each face, where, and whether the captions agree with it.

For each face it writes a picture (AU regions, probabilities and captions above, a saliency map per active AU below),
and the same content into `explanation.json`.
"""

import argparse
from pathlib import Path

from ..hub.sources import DEFAULT_MODEL, check_model_source
from .analyze import add_rerank, parse_rerank
from .face_arguments import FaceSearch, add_face_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `mf2 explain`."""
    add = parser.add_argument
    add("image", type=Path, metavar="IMAGE", help="a picture with one or more faces")
    add("--model", default=DEFAULT_MODEL, help="folder or Hub repository of a checkpoint [%(default)s]")
    add(
        "--output_dir",
        "--output",
        dest="output",
        type=Path,
        default=Path("outputs/explanation"),
        metavar="DIR",
        help="[outputs/explanation]",
    )
    add_rerank(add)
    add("--device", help="cpu, cuda, cuda:1, mps, … [an accelerator if there is one]")
    add_face_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Explain every face, print a summary of each, and write the pictures."""
    check_model_source(args.model, "mf2 explain")
    from ..utils.files import replacing, write_json
    from .explanation import draw_explanation, explain
    from .faces import locate_faces, make_finder
    from .media import Source, read_frames
    from .recognizer import Recognizer

    recognizer = Recognizer.from_pretrained(args.model, device=args.device)
    source = Source(args.image, str(args.image), is_video=False)
    preferred = recognizer.image_processor.landmark_detector
    find = make_finder(FaceSearch.from_args(args), preferred, str(recognizer.device), [source])
    located = next(locate_faces(read_frames([(0, source)]), find, batch_size=1))
    if located.error or not located.faces:
        raise ValueError(f"{args.image}: {located.error or 'no face was found; try --landmarks mean_face.'}")
    rerank = parse_rerank(args)
    pictures = {f"face-{face.id}.png": explain(recognizer, located.frame, face, rerank) for face in located.faces}
    faces = [explanation.to_dict() | {"picture": name} for name, explanation in pictures.items()]
    content = {"image": str(args.image), "model": args.model, "faces": faces}
    write_json(args.output / "explanation.json", content)
    for name, explanation in pictures.items():
        print(explanation.to_text())
        with replacing(args.output / name) as part:
            draw_explanation(explanation, recognizer).save(part)
    print(args.output)
    return 0
