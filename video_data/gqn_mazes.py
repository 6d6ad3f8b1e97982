"""GQN Mazes (Eslami et al. 2018): a walk through rooms of a maze."""

from video_data.mp4_archive import Mp4Archive


class GqnMazes(Mp4Archive):
    """Videos of 300 frames, in colour, of an agent that walks through rooms."""

    URL = "https://archive.org/download/gqn_mazes/gqn_mazes.zip"
    CHANNELS = 3
