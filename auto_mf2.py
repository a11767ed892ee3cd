"""The family in transformers' Auto classes. Part of the package only; Hub remote code is found through `auto_map`."""

from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForImageTextToText,
    AutoModelForPreTraining,
    AutoProcessor,
)
from transformers.pipelines import PIPELINE_REGISTRY

from .configuration_mf2 import CUSTOM_PIPELINES, MF2Config
from .image_processing_mf2 import MF2ImageProcessor, MF2ImageProcessorPil
from .modeling_mf2 import MF2ForConditionalGeneration, MF2ForImageClassification, MF2ForPreTraining, MF2Model
from .pipeline_mf2 import FacialStatePipeline
from .processing_mf2 import MF2Processor

MODEL_CLASSES = {
    AutoModel: MF2Model,
    AutoModelForPreTraining: MF2ForPreTraining,
    AutoModelForImageTextToText: MF2ForConditionalGeneration,
    AutoModelForImageClassification: MF2ForImageClassification,
}


def register_auto_classes() -> None:
    """Let the Auto classes build the family by its model type, and let `save_pretrained` ship its code.

    Here and not in the files of the classes: a copy loaded from a checkpoint must not register itself, or it would
    capture what later checkpoints load.
    """
    AutoConfig.register(MF2Config.model_type, MF2Config, exist_ok=True)
    MF2Config.register_for_auto_class()
    for auto_class, model_class in MODEL_CLASSES.items():
        auto_class.register(MF2Config, model_class, exist_ok=True)
        model_class.register_for_auto_class(auto_class)

    backends = {"torchvision": MF2ImageProcessor, "pil": MF2ImageProcessorPil}
    AutoImageProcessor.register(MF2Config, image_processor_classes=backends, exist_ok=True)
    for image_processor_class in backends.values():
        image_processor_class.register_for_auto_class()
    AutoProcessor.register(MF2Config, MF2Processor, exist_ok=True)
    MF2Processor.register_for_auto_class()

    (task,) = CUSTOM_PIPELINES
    if task not in PIPELINE_REGISTRY.get_supported_tasks():
        PIPELINE_REGISTRY.register_pipeline(
            task, pipeline_class=FacialStatePipeline, pt_model=AutoModelForImageTextToText, type="image"
        )
