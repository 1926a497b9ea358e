"""Results to text: terminal, Markdown, JSON. A renderer formats; it never computes, ranks or decides.

``sheet`` holds the neutral form of a table. ``plan_text``, ``listings`` and ``compared`` say what
stands in it; ``terminal`` and ``markdown`` say what it looks like. ``machine`` writes JSON from the results themselves.
"""
