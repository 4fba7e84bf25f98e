"""Independent auditors of the klines: of the streams (completeness, lifecycle) and against the exchange's own klines.

Three processes: klagg-auditor-completeness, klagg-auditor-lifecycle and klagg-auditor-exchange.
"""
