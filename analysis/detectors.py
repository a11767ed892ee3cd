"""`mf2 detectors`: the face detectors, what each needs, whether it is there, and what to put where."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """There is nothing to choose."""
    parser.epilog = (
        "The model file of mediapipe is found in the folder that is shown, by the environment variable "
        "MF2_FACE_LANDMARKER, or by --model_file of `mf2 analyze` and its like. "
        "MF2_LANDMARK_DETECTOR names the detector that is run by default."
    )


def run(args: argparse.Namespace) -> int:
    """Print a paragraph for each detector, and which one is run where none is named."""
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
