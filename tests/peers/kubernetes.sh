#!/usr/bin/env bash
# Checks the manifests of config/kubernetes and docs/kubernetes.md against the schemas of Kubernetes, which come with kubernetes-validate
# from PyPI: no cluster and, once it is installed, no network is needed.
#
# The ServiceMonitor isn't part of Kubernetes: only that it is YAML is checked. What the ConfigMaps contain is checked by `cargo test`.
set -euo pipefail
cd "$(dirname "$0")/../.."

venv=target/kubernetes-validate
if [ ! -x $venv/bin/kubernetes-validate ]; then
    python3 -m venv $venv
    $venv/bin/pip install --quiet kubernetes-validate
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# The blocks of the page that are whole manifests.
awk '/^```yaml$/ { n++; file = sprintf("'"$work"'/docs-%d.yaml", n); inside = 1; next } /^```$/ { inside = 0 } inside { print > file }' docs/kubernetes.md
for file in "$work"/docs-*.yaml; do
    grep -q '^apiVersion:' "$file" || rm "$file"
done
manifests=(config/kubernetes/*.yaml "$work"/docs-*.yaml)
[ ${#manifests[@]} -ge 2 ]
$venv/bin/kubernetes-validate --strict "${manifests[@]}"
$venv/bin/python -c 'import sys, yaml; assert [d["kind"] for d in yaml.safe_load_all(open(sys.argv[1]))] == ["ServiceMonitor"]' config/prometheus/servicemonitor.yml
