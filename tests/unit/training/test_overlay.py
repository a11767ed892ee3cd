"""Every place that shows captions chooses them in the same way: the overlay of a run, analyses and the pipeline."""

from tiny_mf2 import make_tiny, write_pictures

from mf2.analysis.recognizer import Recognizer
from mf2.evaluation.caption_scores import caption_kinds
from mf2.pipeline_mf2 import FacialStatePipeline
from mf2.training.overlay import write_captions


def test_the_overlay_shows_the_captions_of_analyses_and_of_the_pipeline(tmp_path):
    model, processor = make_tiny(au_text_mode="per_au")
    pictures = write_pictures(tmp_path, 2)
    kinds = caption_kinds(model.config, model.label_space)
    inputs = processor(images=pictures, landmarks=None)
    shown = write_captions(model, processor, inputs)
    analysed = Recognizer(model, processor).write_captions(inputs, kinds)
    assert shown == [{kind: texts[f"caption_{kind}"] for kind in kinds} for texts in analysed]
    pipe = FacialStatePipeline(model=model, processor=processor)
    for picture, captions in zip(pictures, shown, strict=True):
        (face,) = pipe(picture, landmarks="mean_face", captions=kinds)
        assert face["captions"] == captions
