"""What the bench scripts share: the textbook model, the machine they ran on, and a median."""

import os
import platform
import resource

import torch
import transformers
from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel

VOCAB = 50257
BERT_VOCAB = 30522
CONTEXT = 128


def textbook_model(dropout, attention="sdpa"):
    """Width 256, 4 layers, 4 heads, GPT-2's vocabulary, tied head: 16.1 million parameters."""
    torch.manual_seed(1)
    config = GPT2Config(
        vocab_size=VOCAB, n_positions=CONTEXT, n_embd=256, n_layer=4, n_head=4,
        resid_pdrop=dropout, embd_pdrop=dropout, attn_pdrop=dropout, attn_implementation=attention,
    )
    return GPT2LMHeadModel(config)


def textbook_bert(dropout, attention="sdpa"):
    """The same sizes with BERT's vocabulary and masked-language-model head, tied."""
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=BERT_VOCAB, max_position_embeddings=CONTEXT, hidden_size=256, num_hidden_layers=4,
        num_attention_heads=4, intermediate_size=1024, hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout, attn_implementation=attention,
    )
    return BertForMaskedLM(config)


def median(values):
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def peak_rss_bytes():
    """The high-water mark of this process; compiler processes that torch.compile starts are not in it."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def cpu_name():
    try:
        with open("/proc/cpuinfo") as lines:
            fields = dict(line.split(":", 1) for line in lines if ":" in line)
        names = {key.strip(): value.strip() for key, value in fields.items()}
        return f"{names['model name']} (family {names['cpu family']}, model {names['model']})"
    except (OSError, KeyError):
        return platform.processor()


def environment():
    """Versions, CPU, libraries and how busy the machine is: a figure without these cannot be repeated."""
    config = torch.__config__.show()
    libraries = [line.strip(" -") for line in config.splitlines() if "Math Kernel" in line or "MKL-DNN" in line]
    settings = dict(s.split("=", 1) for s in config.split("Build settings:")[-1].split(", ") if s.count("=") == 1)
    return {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "blas": settings.get(" BLAS_INFO", settings.get("BLAS_INFO")),
        "libraries": libraries,
        "mkldnn_available": torch.backends.mkldnn.is_available(),
        "loadavg": os.getloadavg(),
    }
