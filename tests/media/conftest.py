from .fixtures import bad_inputs, clips, media_folder

__all__ = ["bad_inputs", "clips", "media_folder"]
