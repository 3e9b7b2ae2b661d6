"""Text metrics for commit messages: B-Norm BLEU, ROUGE and METEOR, with the stages that ran.

The libraries (sacrebleu, rouge-score, nltk; extra `tasks`) are imported when a metric is built,
never on `import astor_rl`.
"""
