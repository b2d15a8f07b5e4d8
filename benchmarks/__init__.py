"""The benchmarks: ratios against baselines of the same run, never bare numbers. See docs/performance.md."""
