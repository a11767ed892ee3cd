"""Compares two profiles on the same images: validity, key-AU agreement, length and cost."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .answers import VALID
from .prompting import CaptionJob, RequestBuilder
from .rules import TokenCounter, estimate_tokens
from .store import CaptionStore, StoredRequest


@dataclass(frozen=True)
class ProfileResult:
    """The results of one profile. Rates are fractions of the requested captions."""

    name: str
    model: str
    num_captions: int
    valid_at_once: float
    valid: float
    mean_tokens: float
    usd_per_caption: float


@dataclass(frozen=True)
class Comparison:
    """Two results, and the agreement of their key AUs over the images with two valid key-AU captions.

    `key_au_jaccard` is the mean of |A ∩ B| / |A ∪ B|, `key_au_equal` the share of equal sets; None without images.
    """

    results: tuple[ProfileResult, ProfileResult]
    num_images: int
    num_key_pairs: int
    key_au_jaccard: float | None
    key_au_equal: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "profiles": [vars(result) for result in self.results],
            "num_images": self.num_images,
            "num_key_pairs": self.num_key_pairs,
            "key_au_jaccard": self.key_au_jaccard,
            "key_au_equal": self.key_au_equal,
        }

    def to_text(self) -> str:
        """A table with a column for each profile."""
        first, second = self.results
        rows = [
            ("model", first.model, second.model),
            ("captions", f"{first.num_captions:,}", f"{second.num_captions:,}"),
            ("valid at once", f"{first.valid_at_once:.1%}", f"{second.valid_at_once:.1%}"),
            ("valid", f"{first.valid:.1%}", f"{second.valid:.1%}"),
            ("tokens per caption", f"{first.mean_tokens:.1f}", f"{second.mean_tokens:.1f}"),
            ("$ per 1,000 captions", f"{1000 * first.usd_per_caption:.3f}", f"{1000 * second.usd_per_caption:.3f}"),
        ]
        lines = [f"{'':<20} {first.name:>24} {second.name:>24}"]
        lines += [f"{label:<20} {left:>24} {right:>24}" for label, left, right in rows]
        if self.key_au_jaccard is not None and self.key_au_equal is not None:
            lines.append(
                f"key AUs over {self.num_key_pairs:,} images: Jaccard {self.key_au_jaccard:.3f}, "
                f"equal {self.key_au_equal:.1%}"
            )
        return "\n".join(lines)


def compare_stored(
    builders: tuple[RequestBuilder, RequestBuilder],
    store: CaptionStore,
    jobs: Sequence[CaptionJob],
    count_tokens: TokenCounter | None = None,
) -> Comparison:
    """Compare the stored answers of two profiles to the same jobs; both profiles must have been run before."""
    stored = [[_read_answers(builder, store, job) for job in jobs] for builder in builders]
    pairs = [
        (set(left["key_au"].key_aus), set(right["key_au"].key_aus))
        for left, right in zip(*stored, strict=True)
        if _has_valid_key(left) and _has_valid_key(right)
    ]
    first, second = (
        _summarize(builder, store, answers, count_tokens or estimate_tokens)
        for builder, answers in zip(builders, stored, strict=True)
    )
    return Comparison(
        results=(first, second),
        num_images=len(jobs),
        num_key_pairs=len(pairs),
        key_au_jaccard=sum(len(a & b) / len(a | b) for a, b in pairs) / len(pairs) if pairs else None,
        key_au_equal=sum(a == b for a, b in pairs) / len(pairs) if pairs else None,
    )


def _read_answers(builder: RequestBuilder, store: CaptionStore, job: CaptionJob) -> dict[str, StoredRequest]:
    """Caption kind -> stored request of an image."""
    requests = ((request.kind, store.get(request.key)) for request in builder.requests([job]))
    return {kind: stored for kind, stored in requests if stored is not None}


def _has_valid_key(answers: dict[str, StoredRequest]) -> bool:
    return "key_au" in answers and answers["key_au"].state == VALID


def _summarize(
    builder: RequestBuilder,
    store: CaptionStore,
    answers: Sequence[dict[str, StoredRequest]],
    count_tokens: TokenCounter,
) -> ProfileResult:
    requests = [stored for by_kind in answers for stored in by_kind.values()]
    valid = [stored for stored in requests if stored.state == VALID]
    num_requests = max(1, len(requests))
    return ProfileResult(
        name=builder.profile.name,
        model=builder.profile.model_name,
        num_captions=len(requests),
        valid_at_once=sum(stored.attempt == 0 for stored in valid) / num_requests,
        valid=len(valid) / num_requests,
        mean_tokens=sum(count_tokens(stored.caption or "") for stored in valid) / max(1, len(valid)),
        usd_per_caption=sum(store.request_usd(stored.key) for stored in requests) / num_requests,
    )
