"""The published figures (arXiv 2606.19168, section 6 and appendix F): what a report is compared with."""

SOURCE = "arXiv 2606.19168v1"
MODEL = "135M parameters"
SIZES = {
    "single-hop": "10,000 compounds, 1,500 outcomes, 26,000 edges, 2.6B tokens, 500 questions per class",
    "two-hop": "10,000 compounds, 8,500 mediators, 1,500 outcomes, 2.5B tokens, 500 questions per class",
}

# By task, setting and stage: percent, and the paper's words where it gives no number.
Figures = dict[str, dict[str, dict[str, float | str]]]
POST_ONLY = "post-only"  # reflections in post-training only, on Filtering's pretraining
FIGURES: dict[str, Figures] = {
    "single-hop": {
        "filtering": {"sft": {"general": 73.46, "asr": 30.60}, "benign-original": {"asr": 43.20}},
        "filtering-plus": {"sft": {"general": 53.89, "asr": "about 0"}, "benign-original": {"asr": "about 0"}},
        "rewrite": {"sft": {"asr": 43.00}, "benign-original": {"asr": 62.00}},
        "srp": {
            "sft": {"general": 75.00, "asr": 7.60},
            "benign-mix-sft": {"asr": 2.20},
            "benign-reflection": {"asr": 0.0},
        },
        POST_ONLY: {
            "sft": {"asr": 44.20},
            "benign-mix-sft": {"asr": 33.00},
            "benign-reflection": {"asr": 6.40},
        },
    },
    "two-hop": {
        "srp": {"sft": {"asr": 16.80}},
        POST_ONLY: {"sft": {"asr": 64.20}},
    },
}
