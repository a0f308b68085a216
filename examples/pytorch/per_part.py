"""Parts of a model with thresholds of their own: `by_name` maps patterns of parameter names to clips.

The first pattern that matches a name wins. Parameters that no pattern matches are not clipped.

    python examples/pytorch/per_part.py
"""

import torch
from torch import nn

import clipwise


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(100, 32)
        self.encoder = nn.GRU(32, 64, batch_first=True)
        self.head = nn.Linear(64, 2)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.encoder(self.embedding(tokens))[0][:, -1])


torch.manual_seed(0)
model = Classifier()
optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
clip = clipwise.by_name(
    {
        "encoder.*": clipwise.clip_by_global_norm(0.05),  # the recurrent part, tightly
        "head.*": clipwise.clip_by_norm(0.5),  # each tensor of the head by itself
        "*": clipwise.autoclip(50),  # the embedding: the median of its norms so far
    }
)
clipper = clipwise.torch.attach(optimizer, clip, model=model)

for _ in range(100):
    tokens = torch.randint(100, (32, 20))
    labels = (tokens[:, -1] >= 50).long()
    loss = nn.functional.cross_entropy(model(tokens), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

print(f"loss {loss.item():.3f}; the last step by part:")
for pattern, report in clipper.report.parts.items():
    print(f"  {pattern:10} {report}")
