"""Dense alignment of a template with a picture: FlowFace's network (Taubner et al., CVPR 2024), and its training."""
