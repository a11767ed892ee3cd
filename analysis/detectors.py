"""`mf2 detectors`: lists the face detectors, their requirements, what is missing, and how to install it."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`mf2 detectors` has no options; add its notes to the help."""
    parser.epilog = (
        "The model file of mediapipe is looked for in the folder shown, or given by the environment variable "
        "MF2_FACE_LANDMARKER or by --model_file of `mf2 analyze` and other commands. "
        "MF2_LANDMARK_DETECTOR selects the default detector."
    )


def run(args: argparse.Namespace) -> int:
    """Print the requirements of each detector, and the default detector."""
    from ..landmarks_mf2 import PREFERRED_DETECTOR, choose_detector, detector_names, detector_needs, detectors_folder

    ready = []
    for name in detector_names():
        needs = detector_needs(name)
        is_ready = all(need.is_there for need in needs)
        ready += [name] * is_ready
        print(f"{name}: {'ready' if is_ready else 'not ready'}")
        for need in needs:
            print(f"  {need.name}: {'there' if need.is_there else f'missing; {need.remedy}'}")
    print(f"Model files are looked for in {detectors_folder()}")
    if ready:
        print(f"Run by default: {choose_detector(PREFERRED_DETECTOR)}")
    else:
        print(
            "None is ready; for `mf2 analyze` and its like, --landmarks FILE gives points, and --landmarks mean_face "
            "takes every picture as a face crop."
        )
    return 0
