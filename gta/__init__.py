"""GTA: guided transfer of spatial attention (Seo et al., 2024, arXiv 2401.02656) on timm's ViTs."""
