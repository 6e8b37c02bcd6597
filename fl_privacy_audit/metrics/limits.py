"""Bounds that the table of metrics and their functions share."""

PSNR_CEILING = 100.0
"""PSNR of identical images would be infinite; it is reported as this many dB."""
SSIM_WINDOW = 7
"""Side of SSIM's uniform window, as in scikit-image."""
MS_SSIM_WINDOW = 11
"""Side of MS-SSIM's Gaussian window, in pixels."""
LPIPS_SIDE = 16
"""Smallest side for LPIPS: a smaller image, enlarged for it, would be mostly interpolation."""
