"""Speech recognition from frozen audio and visual encoders: alignment, back-ends, their join, CTC and attention.

After Pan et al., "Leveraging Unimodal Self-Supervised Learning for Multimodal AVSR" (ACL 2022).
"""
