"""MF²: facial action units, emotions and captions from one multimodal face model.

Names are imported when they are first asked for; asking for a model, configuration or processor class also registers
the family with transformers' Auto classes and PEFT, and so does importing PEFT.
"""

# pytest imports a root `__init__.py` a second time under the checkout folder's name; that copy stays empty.
if __name__ == "mf2":
    import importlib
    from typing import Any

    from .registration_mf2 import register, register_with_peft

    __version__ = "0.1.0"

    _EXPORTS = {
        "labels_mf2": ("ACTION_UNITS", "AU_IDS", "EMOTIONS", "LabelSpace"),
        "configuration_mf2": ("MF2Config", "MF2QFormerConfig"),
        "landmarks_mf2": ("FaceAlignmentDetector", "LandmarkDetector", "load_detector"),
        "processing_mf2": ("MF2ImageProcessor", "MF2ImageProcessorPil", "MF2Processor"),
        "modeling_mf2": (
            "MF2ForConditionalGeneration",
            "MF2ForImageClassification",
            "MF2ForPreTraining",
            "MF2Model",
            "MF2PreTrainedModel",
        ),
        "peft_dfn": ("DFNConfig",),
    }
    _MODULE_OF = {name: module for module, names in _EXPORTS.items() for name in names}
    __all__ = ["__version__", *_MODULE_OF]

    def __getattr__(name: str) -> Any:
        if name not in _MODULE_OF:
            raise AttributeError(f"module 'mf2' has no attribute {name!r}")
        if _MODULE_OF[name] != "labels_mf2":
            register()
        value = getattr(importlib.import_module(f"mf2.{_MODULE_OF[name]}"), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted(__all__)

    register_with_peft()
