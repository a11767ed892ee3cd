"""Miniatures of the data sets' folders, every trap of their layouts planted; each function says what is in it."""

import io
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

BP4D_WIDTH = 100


def image_bytes(value: int = 0, suffix: str = ".jpg") -> bytes:
    """A small image of one colour."""
    file = io.BytesIO()
    Image.new("RGB", (16, 16), (value % 256, 0, 0)).save(file, {".png": "PNG", ".bmp": "BMP"}.get(suffix, "JPEG"))
    return file.getvalue()


def write(root: Path, files: dict[str, str | bytes]) -> Path:
    """Write files by path below `root`."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def write_images(root: Path, names: Iterable[str]) -> Path:
    """An image under each name; its colour is its place in the list."""
    return write(root, {name: image_bytes(place, Path(name).suffix) for place, name in enumerate(names)})


def disfa(root: Path) -> Path:
    """Three people, both spellings of the label files, images that count from 0 or from 1.

    SN001 (fold part 1): frames 1-4, images 0-3; AU1 0 1 2 5, AU12 5 0 0 0. SN013 (part 2): `au1.txt`; frames 1-3,
    images 1-2; a malformed line and an intensity 6 in AU4. SN003 (part 3): frames 1-2, images 1-2; AU9 only.
    """
    labels = "ActionUnit_Labels"
    write(
        root,
        {
            f"{labels}/SN001/SN001_au1.txt": "1,0\n2,1\n3,2\n4,5\n",
            f"{labels}/SN001/SN001_au12.txt": "1,5\n2,0\n3,0\n4,0\n",
            f"{labels}/SN013/au1.txt": "1,3\n2,0\n3,0\n",
            f"{labels}/SN013/au4.txt": "1,6\nnonsense\n2,0\n",
            f"{labels}/SN003/SN003_au9.txt": "1,2\r\n2,1\r\n",
            f"{labels}/SN003/.DS_Store": b"\0",
        },
    )
    names = [f"frames/SN001/{number}.png" for number in range(4)]
    names += [f"frames/LeftVideoSN013_comp/LeftVideoSN013_comp_{number:05d}.jpg" for number in (1, 2)]
    return write_images(root, [*names, "frames/SN003/0001.jpg", "frames/SN003/0002.jpg", "frames/SN003/0009.jpg"])


def bp4d(root: Path) -> Path:
    """Two people of different parts and one of none.

    F001_T1: frames 1-3; AU1 1, AU2 0, AU25 9, of AU6 1, 0, 9; images with 3 digits, that of frame 3 is not there; the
    header names 96 twice. M011_T2: frames 10-11, images with 4 digits. F099_T1 is in no part.
    """
    header = [str(number) for number in range(BP4D_WIDTH)]

    def file(frames: Iterable[int], twice: bool = False, **aus: tuple[int, ...]) -> str:
        names = [*header[:97], "96", *header[98:]] if twice else header
        lines = [",".join(names)]
        for place, frame in enumerate(frames):
            cells = [str(frame), *["9"] * (BP4D_WIDTH - 1)]
            for au, values in aus.items():
                cells[int(au[2:])] = str(values[place])
            lines.append(",".join(cells))
        return "\n".join(lines) + "\n"

    first = file((1, 2, 3), twice=True, AU1=(1, 1, 1), AU2=(0, 0, 0), AU6=(1, 0, 9))
    write(
        root,
        {
            "AUCoding/AU_OCC/F001_T1.csv": first + "not,a,row\n",
            "AUCoding/AU_OCC/M011_T2.csv": file((10, 11), AU1=(0, 1)).replace("\n", "\r\n"),
            "AUCoding/AU_OCC/F099_T1.csv": file((1,), AU1=(1,)),
            "AUCoding/AU_OCC/F003_T1.csv": "0,1,2\n1,0,0\n",
        },
    )
    names = ["2D/F001/T1/001.jpg", "2D/F001/T1/002.jpg", "2D/F001/T1/0002.jpg", "2D/F001/T1/007.jpg"]
    return write_images(root, [*names, "2D/M011/T2/0010.jpg", "2D/M011/T2/0011.jpg", "2D/F099/T1/001.jpg"])


def rafdb(root: Path) -> Path:
    """All seven codes, an unknown one, a line that is none, a photograph that is not there; both crops."""
    lines = [f"train_{code:05d}.jpg {code}" for code in range(1, 9)]
    lines += ["test_0001.jpg 7", "test_0002.jpg 3", "", "train_00099", "../../train_00001.jpg 1", "train_00001.jpg 2"]
    write(root, {"basic/EmoLabel/list_patition_label.txt": "\n".join(lines) + "\n"})
    stems = [*(f"train_{code:05d}" for code in range(1, 9)), "test_0001"]
    aligned = [f"basic/Image/aligned/{stem}_aligned.jpg" for stem in stems]
    return write_images(root, [*aligned, *(f"basic/Image/original/{stem}.jpg" for stem in stems)])


def own_csv(root: Path) -> Path:
    """Four images of two people, with gaps, an AU45 and a path that leads out."""
    text = (
        "path,AU1,AU12,AU45,emotion,group_id,note\n"
        "a/1.jpg,1,0,1,happy,anna,x\n"
        "a/2.jpg,,-1,1,Sadness,anna,x\n"
        "b/1.png,0.0,1,0,,bo,x\n"
        "b/2.jpg,,,1,,bo,x\n"
        "../a/1.jpg,1,1,1,happy,bo,x\n"
        "b/9.jpg,1,1,1,happy,bo,x\n"
    )
    write(root, {"labels.csv": text})
    return write_images(root, ["a/1.jpg", "a/2.jpg", "b/1.png", "b/2.jpg"])
