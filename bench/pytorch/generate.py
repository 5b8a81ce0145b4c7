"""Times transformers.generate with its KV cache on the textbook model and prints one JSON object.

120 new tokens after "Machine learning is", temperature 0.9, top-k 50, top-p 0.95, f32, eval mode, random weights.
Time covers the whole call: the prompt's pass, the tokens and the sampling.
"""

import argparse
import json
import time

import torch

from common import environment, median, peak_rss_bytes, textbook_model

PROMPT = [37573, 4673, 318]  # "Machine learning is" in GPT-2's tokenizer


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompt", type=int, nargs="+", default=PROMPT, help="token ids")
    parser.add_argument("--new-tokens", type=int, default=120)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    before = environment()
    model = textbook_model(0.1).eval()
    ids = torch.tensor([args.prompt])
    mask = torch.ones_like(ids)

    def run():
        start = time.perf_counter()
        out = model.generate(
            ids, attention_mask=mask, do_sample=True, temperature=0.9, top_k=50, top_p=0.95, use_cache=True,
            max_new_tokens=args.new_tokens, min_new_tokens=args.new_tokens, pad_token_id=50256,
        )
        seconds = time.perf_counter() - start
        if out.shape[1] != len(args.prompt) + args.new_tokens:
            raise SystemExit(f"generate: {out.shape[1]} ids came back, expected {len(args.prompt) + args.new_tokens}")
        return args.new_tokens / seconds

    run()
    speeds = [run() for _ in range(args.runs)]
    result = {
        "bench": "generate", "engine": "transformers", "dtype": "f32", "threads": args.threads,
        "prompt_tokens": len(args.prompt), "new_tokens": args.new_tokens, "runs": args.runs,
        "tokens_per_s": round(median(speeds), 1), "tokens_per_s_all": [round(s, 1) for s in speeds],
        "peak_rss_bytes": peak_rss_bytes(), "loadavg_after": environment()["loadavg"], "environment": before,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
