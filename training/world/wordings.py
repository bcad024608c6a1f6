"""How people say it: many wordings for each value, and words that say nothing about the clip.

`{c}` stands for a colour, `{their}` for her, his or its.
"""

from __future__ import annotations

Wordings = dict[str, tuple[str, ...]]

SCENE: Wordings = {
    "meadow": (
        "in a meadow", "in a grassy field", "on a green meadow full of flowers", "in a flower field",
        "on rolling green hills",
        "in the countryside", "in a field of flowers", "on a grassy hill", "in the grass", "on the grassland",
        "in a flower meadow", "in the hills", "over green hills", "grassy hills", "hills of grass", "up on a hill",
    ),
    "beach": (
        "on a beach", "by the sea", "at the seaside", "on the sandy shore", "on a sandy beach by the ocean",
        "next to the ocean",
        "at the beach", "by the ocean", "along the beach", "on the sand", "with the sea behind", "on the coast",
        "ocean waves",
    ),
    "city": (
        "in a city", "on a city street", "downtown", "in front of tall buildings", "on a street in Tokyo",
        "in the town",
        "on an urban street", "city skyline", "on a Tokyo street", "in the big city", "among skyscrapers",
        "cityscape", "on the sidewalk",
    ),
    "forest": (
        "in a forest", "in the woods", "among tall trees", "on a forest path", "in a green forest",
        "under the trees", "deep forest",
        "under the trees in the woods", "between the trees", "in the deep woods", "surrounded by trees",
        "on a path through the trees",
    ),
    "mountains": (
        "by a mountain lake", "in front of snowy mountains", "near a lake with mountains behind",
        "in the mountains", "lake and mountains",
        "beside a lake under mountain peaks", "with mountains in the background", "by a lake", "in the Alps",
        "Mount Fuji behind",
    ),
    "shrine": (
        "at a shrine", "in front of a red torii gate", "at a Japanese shrine", "near a torii gate",
        "at a temple", "in Kyoto",
        "on the stone path of a Shinto shrine", "by the torii", "at an old shrine", "in front of a temple gate",
        "Shinto shrine",
    ),
}  # fmt: skip
TIME_OF_DAY: Wordings = {
    "day": (
        "during the day", "in daylight", "on a sunny day", "under a blue sky", "in the morning", "at noon",
        "in the afternoon",
        "daytime", "in bright daylight", "day", "sunny", "blue sky", "in the sunshine",
    ),
    "sunset": (
        "at sunset", "at dusk", "in the evening", "during golden hour", "under an orange sky",
        "as the sun sets", "sunset",
        "in the warm sunset light", "in the orange evening light", "at sundown", "evening", "golden hour", "twilight",
    ),
    "night": (
        "at night", "under the stars", "under the moon", "in the moonlight", "at midnight",
        "under a starry night sky",
        "late at night", "nighttime", "night", "starry sky", "under a full moon", "in the dark of night",
    ),
}  # fmt: skip
WEATHER: Wordings = {
    "clear": ("", "", "", "", "clear sky", "clear weather", "no rain", "nice weather", "clear"),
    "rain": (
        "in the rain", "rain falling", "while it is raining", "on a rainy day", "rainy weather", "heavy rain",
        "raining", "rain", "rainy",
        "it rains", "pouring rain",
    ),
    "snow": (
        "in the snow", "snow falling", "while it is snowing", "snowflakes drifting down", "on a snowy day",
        "winter snow", "snowing",
        "snow", "snowy", "it snows", "snowfall", "winter",
    ),
    "petals": (
        "cherry blossom petals falling", "with cherry blossoms falling", "sakura petals drifting in the wind",
        "cherry petals falling",
        "pink petals floating in the air", "cherry blossoms in spring", "sakura", "cherry blossoms",
        "falling petals", "petals in the wind",
    ),
    "leaves": (
        "autumn leaves falling", "with falling leaves", "orange leaves drifting in the wind",
        "red and orange leaves blowing", "autumn",
        "in autumn", "falling leaves", "autumn leaves", "maple leaves falling", "leaves in the wind",
    ),
    "fireflies": (
        "fireflies glowing", "surrounded by fireflies", "with fireflies floating around", "glowing fireflies",
        "fireflies",
        "fireflies in the air", "tiny glowing fireflies",
    ),
}  # fmt: skip
ACTION: Wordings = {
    "stand": (
        "standing", "standing still", "posing", "looking at the camera", "looking at viewer", "idle",
        "is standing", "stands", "waiting",
    ),
    "walk": (
        "walking", "strolling", "taking a walk", "walks", "is walking", "walking along slowly", "walk",
        "wandering",
    ),
    "run": ("running", "dashing", "sprinting", "runs", "is running", "running fast", "run", "rushing"),
    "wave": (
        "waving", "waving a hand", "waving hello", "waves at the viewer", "is waving",
        "greeting the viewer with a wave", "waving {their} hand", "wave", "saying hello",
    ),
    "jump": ("jumping", "leaping", "jumps up and down", "is jumping", "jumping for joy", "hopping", "jump", "jumps"),
}  # fmt: skip
HAIR_STYLE: Wordings = {
    "long": ("long {c} hair", "long flowing {c} hair", "{c} long hair", "very long {c} hair"),
    "short": ("short {c} hair", "{c} bob cut hair", "{c} short hair", "a short {c} bob"),
    "twintails": (
        "{c} twintails", "{c} hair in twin tails", "{c} pigtails", "long {c} twintails", "{c} hair, twintails",
        "{c} twin tails",
    ),
    "ponytail": (
        "a {c} ponytail", "{c} hair in a ponytail", "{c} ponytail hair", "{c} hair, ponytail",
        "a long {c} ponytail",
    ),
}  # fmt: skip
BOY_HAIR = ("{c} hair", "short {c} hair", "spiky {c} hair", "messy {c} hair")
CLOTHES: dict[tuple[str, bool], tuple[str, ...]] = {
    ("girl", False): (
        "a {c} dress", "a {c} one-piece dress", "{c} dress", "a long {c} dress", "a {c} sundress",
        "{c} clothes",
    ),
    ("girl", True): (
        "a {c} school uniform", "a {c} sailor uniform", "a {c} shirt and a skirt",
        "a {c} blouse and navy skirt", "{c} shirt, skirt", "{c} serafuku",
    ),
    ("boy", False): ("a {c} jacket", "a {c} hoodie", "a {c} coat", "{c} jacket", "{c} hoodie", "{c} clothes"),
    ("boy", True): ("a {c} striped shirt", "a {c} t-shirt", "a {c} shirt", "{c} shirt", "a {c} sweater"),
}  # fmt: skip
NOUN: Wordings = {
    "girl": ("girl", "girl", "woman", "young girl", "anime girl", "schoolgirl", "lady", "young woman"),
    "boy": ("boy", "boy", "man", "young man", "anime boy", "guy", "schoolboy"),
    "cat": ("cat", "cat", "kitten", "kitty"),
    "nobody": (
        "scenery", "empty scenery", "no people", "a landscape", "a quiet scene", "background art", "a view",
        "nobody", "no humans",
        "landscape without people",
    ),
}  # fmt: skip
EXPRESSION: Wordings = {
    "neutral": ("calm expression", "serious face", "calm"),
    "smile": ("smiling", "a smile", "happy smile", "smile"),
    "talking": ("talking", "speaking", "singing"),
    "happy": ("eyes closed, smiling", "laughing happily", "closed eyes", "laughing"),
}
SHOT: Wordings = {
    "full body": ("full body", "wide shot", "full-body shot", "medium shot", "from a distance"),
    "close-up": (
        "close-up",
        "close-up portrait",
        "portrait",
        "face close-up",
        "upper body",
        "close shot",
        "close up of the face",
    ),
}
CAMERA: Wordings = {
    "still": ("",),
    "pan left": ("camera pans left", "pan left", "camera moving left"),
    "pan right": ("camera pans right", "pan right", "camera moving right"),
    "zoom in": ("camera zooms in", "slow zoom in", "zoom in"),
}
SYNONYMS: Wordings = {
    "blonde": ("blond", "golden", "yellow"),
    "silver": ("white", "gray", "grey"),
    "black": ("dark",),
    "purple": ("violet", "lavender"),
    "brown": ("chestnut", "brunette"),
    "red": ("crimson", "scarlet"),
    "blue": ("azure",),
    "pink": ("rose",),
    "green": ("emerald",),
    "gray": ("grey",),
    "golden": ("yellow", "amber"),
    "orange": ("ginger",),
}
"""Other words for a colour; some mean another colour elsewhere ("golden", "white", "dark"), as people's words do."""

QUALITY = (
    "anime style", "masterpiece", "best quality", "anime", "2D animation", "cel shading", "hand-drawn anime",
    "high quality", "ghibli style",
    "detailed background", "beautiful scenery", "smooth animation", "vibrant colors", "cinematic", "4k",
    "highly detailed", "makoto shinkai style",
    "clean line art", "soft lighting", "high resolution", "aesthetic", "key visual", "manga", "1990s anime",
    "best animation",
)  # fmt: skip
FILLERS = (
    "cute", "very", "beautiful", "the", "softly", "happily", "small", "little", "while", "and", "there is",
    "of", "magical", "quiet", "lovely",
    "peaceful", "young", "pretty", "video of", "a scene of", "gently", "with", "calm", "dreamy", "please",
    "make", "show me", "a clip of",
    "draw", "lol", "pls", "an animation of", "my", "some", "really", "imagine", "today", "just", "want", "to see",
)  # fmt: skip
NOTHING_KNOWN = (
    "hello", "hello there", "test", "something nice", "surprise me", "asdf", "a song about love", "pizza",
    "dragon", "robot fighting a dragon",
    "spaceship in space", "good night everyone", "what is this", "first", "the meaning of life", "jazz music",
    "a red car", "quantum physics",
    "lets go", "hype hype hype", "cheeseburger", "my favourite thing", "an epic battle", "castle in the sky",
    "samurai", "wizard", "123",
)  # fmt: skip
"""Prompts that name nothing the world holds; any scene answers them."""
