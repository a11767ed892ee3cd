"""Miniatures of the data sets' folders, every trap of their layouts planted; each function says what is in it."""

import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
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


def ckplus(root: Path) -> Path:
    """Four sequences of two people.

    S005_001: AU1 of intensity 0, AU12, AU80; contempt. S005_002: no emotion file. S010_001: anger, its FACS file is
    not understood. S010_002: no FACS file, happiness, image not there. Earlier frames are there and have no label.
    """
    number = "   {:.7e}\n".format
    write(
        root,
        {
            "FACS/S005/001/S005_001_00000003_facs.txt": "  1.0000000e+00  0.0000000e+00\n  1.2e+01  3.0e+00\n 8e1 1\n",
            "FACS/S005/002/S005_002_00000002_facs.txt": "   4.0000000e+00   2.0000000e+00\n\n",
            "FACS/S010/001/S010_001_00000002_facs.txt": "AU four\n",
            "Emotion/S005/001/S005_001_00000003_emotion.txt": number(2),
            "Emotion/S005/002/.keep": "",
            "Emotion/S010/001/S010_001_00000002_emotion.txt": number(1),
            "Emotion/S010/002/S010_002_00000002_emotion.txt": number(5),
        },
    )
    sequences = (("S005_001", 3), ("S005_002", 2), ("S010_001", 2))
    return write_images(
        root,
        [
            f"cohn-kanade-images/{name[:4]}/{name[5:]}/{name}_{k:08d}.png"
            for name, last in sequences
            for k in range(1, last + 1)
        ],
    )


def gft(root: Path) -> Path:
    """Two people of one group; unscored cells, a frame without an image, a row without a frame, an AU of one file."""
    write(
        root,
        {
            "AUs/001A.csv": "Frame#,AU1,AU10,AU18\n1,0,1,1\n2,1,9,1\n3,1,1,1\n,1,1,1\n",
            "AUs/001B.csv": "Frame#,AU1,AU10,AU04\n1,2,-999,\n2,,0,1\n",
        },
    )
    return write_images(root, [f"images/001{person}/{frame}.jpg" for person in "AB" for frame in (1, 2)])


def rafau(root: Path) -> Path:
    """Left and right AUs, a null, a mark of doubt, a photograph that is not there, both crops."""
    lines = ["0001.jpg 1+4+L12", "0002.jpg null", "0003.jpg L12+R12", "0004.jpg 12?", "0005.jpg 26", "0006.jpg 9+27"]
    write(root, {"RAFAU_label.txt": "\n".join(lines)})
    stems = ("0001", "0002", "0003", "0004", "0006")
    return write_images(root, [*(f"aligned/{s}_aligned.jpg" for s in stems), *(f"original/{s}.jpg" for s in stems)])


def emotionet(root: Path) -> Path:
    """Literal quotes, 999, an address with a query, two addresses that end alike, one photograph that is not there."""
    header = ["URL", *(f"'AU {number}'" for number in (1, 12, 25, 43))]
    rows = [
        ("http://a.example/one.jpg", 1, 0, 999, 1),
        ("http://b.example/x/two.jpg?size=2", 0, 1, 1, 0),
        ("http://a.example/same.jpg", 1, 1, 1, 1),
        ("http://b.example/same.jpg", 0, 0, 0, 0),
        ("http://a.example/gone.jpg", 1, 1, 1, 1),
        ("http://a.example/nothing.jpg", 999, 999, 999, 1),
        ("http://a.example/odd.jpg", 1, 3, 0, 1),
    ]
    write(root, {"labels.csv": "\n".join([",".join(header), *(",".join(map(str, row)) for row in rows)]) + "\n"})
    return write_images(root, [f"images/{name}.jpg" for name in ("one", "two", "same", "nothing", "odd", "unknown")])


CASME_HEADER = (
    "Subject",
    "Filename",
    "",
    "OnsetFrame",
    "ApexFrame",
    "OffsetFrame",
    "Action Units",
    "Estimated Emotion",
)


def workbook(sheets: dict[str, Iterable[Iterable[object]]]) -> bytes:
    """A workbook of sheets of rows."""
    import openpyxl

    book = openpyxl.Workbook()
    book.remove(book.active)
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(list(row))
    file = io.BytesIO()
    book.save(file)
    return file.getvalue()


MICRO_EXPRESSIONS = (
    ("Subject", "Filename", "", "OnsetFrame", "ApexFrame", "OffsetFrame", "Action Units", "Estimated Emotion"),
    (1, "EP02_01f", None, 46, 59, 86, "4+L14", "repression"),
    (1, "EP03_02", None, 12, 15, 20, "?", "happiness"),
    (17, "EP01_01", None, 1, "/", 20, "4", "disgust"),
    ("17", "EP01_02", None, 1, 5, 20, 12, "others"),
    (17, "EP01_03", None, 1, 5, 20, "1+2", "dread"),
    (17, "EP01_04", None, 1, 5, 20, "1", "surprise"),
    (None, None, None, None, None, None, None, None),
)
CAS_ME2_ROWS = (
    (1, "anger1_1", 557, 572, 608, "4+7", "negative", "macro-expression", "anger"),
    (1, "happy1_2", 10, 20, 30, "6+12", "positive", "micro-expression", "happiness"),
    (2, "disgust2_1", 5, 9, 0, "4+9", "negative", "macro-expression", "disgust"),
    (15, "anger1_1", 557, 572, 608, "6+12", "positive", "macro-expression", "happiness"),
)
CAS_ME2_FOLDERS = ((15, "s15", 1), (16, "s16", 2), (37, "s37", 15))


def cas_me2(root: Path, sheets: dict[str, Iterable[Iterable[object]]] | None = None) -> Path:
    """The workbook as it is distributed, or of `sheets`: participant 15 is folder s37, and s15 participant 1."""
    names = [("0401", "anger1"), ("0502", "happy1"), ("0102", "disgust2")]
    distributed = {"CASFEcode_final": CAS_ME2_ROWS, "naming rule1": CAS_ME2_FOLDERS, "naming rule2": names}
    write(root, {"CAS(ME)^2code_final.xlsx": workbook(sheets or distributed)})
    images = [
        "s15/anger1_1/img572.jpg",
        "s15/happy1_2/img20.jpg",
        "s16/disgust2_1/img9.jpg",
        "s37/anger1_1/img572.jpg",
    ]
    return write_images(root, [f"selectedpic/{image}" for image in images])


def micro_expressions(root: Path) -> Path:
    """Left AUs, `?`, repression, an unknown emotion, an apex `/`, an image that is not there."""
    write(root, {"coding.xlsx": workbook({"Sheet1": MICRO_EXPRESSIONS}), "~$coding.xlsx": b"lock"})
    names = ["01/EP02_01f/reg_img59.jpg", "01/EP02_01f/reg_img60.jpg", "01/EP03_02/reg_img15.jpg"]
    names += ["17/EP01_02/img5.bmp", "17/EP01_03/img005.jpg"]
    return write_images(root, [f"Cropped/sub{name}" for name in names])


def affectnet_csv(root: Path) -> Path:
    """Landmarks, contempt, the codes 8-10 and 11, a photograph that is not there, valence and arousal with their code
    of no label and one out of range; suffixes in upper case."""
    points = ";".join(str(k / 2) for k in range(136))
    header = "subDirectory_filePath,face_x,face_y,face_width,face_height,facial_landmarks,expression,valence,arousal"
    training = [(f"1/p{code}.jpg", points if code else "", code) for code in range(12)]
    affect = {2: "-2,-2", 3: "0.5,1.5", 11: "-2,-2"}
    lines = [
        f"{path},0,0,9,9,{marks},{code},{affect.get(code, '0.1,-0.2')}"
        for path, marks, code in [*training, ("9/gone.jpg", points, 1)]
    ]
    write(
        root,
        {
            "lists/training.csv": "\n".join([header, *lines]),
            "lists/validation.csv": f"{header}\n2/v.JPG,0,0,9,9,{points},6,0,0\n",
        },
    )
    return write_images(root, [*(f"images/1/p{code}.jpg" for code in range(12)), "images/2/v.JPG"])


def affectnet_npy(root: Path) -> Path:
    """Strings in arrays without dimensions, also a number, a pickled object and a torn file."""

    def array(value: object, **options: bool) -> bytes:
        file = io.BytesIO()
        np.save(file, np.array(value), **options)
        return file.getvalue()

    codes = {"train_set": {0: "1", 3: "7", 5: "8", 6: 4}, "val_set": {0: "6", 1: "11"}}
    for split, of_split in codes.items():
        write(root, {f"{split}/annotations/{k}_exp.npy": array(code) for k, code in of_split.items()})
        write(
            root,
            {
                f"{split}/annotations/{k}_aro.npy": array("0.5" if code != "11" else "-2")
                for k, code in of_split.items()
            },
        )
        write_images(root, [f"{split}/images/{k}.jpg" for k in of_split])
    pickled = array({"code": 1}, allow_pickle=True)
    return write(
        root,
        {"train_set/annotations/8_exp.npy": pickled, "train_set/annotations/9_exp.npy": array("1")[:-3]},
    )


def dfew(root: Path) -> Path:
    """Two folds; clips of 20, 3 and 1 frames, one that is not there, one labelled twice, an unknown label."""
    split = "EmoLabel_DataSplit"
    write(
        root,
        {
            f"{split}/train(single-labeled)/set_1.csv": "video_name,label\n1,1\n2,7\n4,2\n1,3\n",
            f"{split}/test(single-labeled)/set_1.csv": "video_name,label\n00003,3\n5,0\n",
            f"{split}/train(single-labeled)/set_2.csv": "video_name,label\n3,3\n",
            f"{split}/test(single-labeled)/set_2.csv": "video_name,label\n1,1\n",
        },
    )
    clips = {1: 20, 2: 3, 3: 1, 5: 1}
    return write_images(root, [f"Clip/224/{clip:05d}/{k}.jpg" for clip, size in clips.items() for k in range(size)])


def ferv39k(root: Path) -> Path:
    """Rows parted by a blank, one without a label, one of an unknown emotion; the same number in two folders."""
    setup = "4_setups/All_scenes"
    write(
        root,
        {
            f"{setup}/train_All.csv": "Crime/Angry/0063 Angry\nWar/Happy/0063 Happy\nWar/Sad/0001\nWar/Odd/0001 Odd\n",
            f"{setup}/test_All.csv": "Crime/Fear/0002 Fear\r\nCrime/Fear/0009 Fear\r\n",
        },
    )
    clips = ("Crime/Angry/0063", "War/Happy/0063", "War/Odd/0001", "Crime/Fear/0002")
    return write_images(root, [f"2_ClipsforFaceCrop/{clip}/{k}.jpg" for clip in clips for k in range(1, 5)])


def sfew(root: Path) -> Path:
    """Folders of two splits, one emotion that is none of ours."""
    train, val = "Train/Train_Aligned_Faces", "Val/Val_Aligned_Faces"
    films = [f"{train}/Angry/Airheads_000519240_0000001{k}.png" for k in range(2)]
    others = [f"{train}/Happy/21_000519240_00000010.png", f"{train}/Bored/Film_1.png", f"{val}/Neutral/Up_1_2.png"]
    write(root, {f"{train}/Angry/Thumbs.db": b"x", "Test/Test_Aligned_Faces/a.png": image_bytes()})
    return write_images(root, [*films, *others])


def video_bytes(num_frames: int, start: int = 0) -> bytes:
    """A video whose frame k has the brightness start + 8 k."""
    import av

    file = io.BytesIO()
    with av.open(file, "w", format="avi") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuvj420p"
        for k in range(num_frames):
            pixels = np.full((32, 32, 3), start + 8 * k, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        container.mux(stream.encode())
    return file.getvalue()


def afew(root: Path) -> Path:
    """Videos of 10 and 2 frames and a file that is none."""
    return write(
        root,
        {
            "Train_AFEW/Angry/000046280.avi": video_bytes(10),
            "Train_AFEW/Happy/000046281.avi": b"RIFF and no video",
            "Val_AFEW/Sad/000046282.avi": video_bytes(2, 100),
        },
    )
