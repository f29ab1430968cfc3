#!/bin/sh
# Installs what serves (client, core, workers, service) into FOLDER, a new environment, and lists what is in it as CycloneDX.
#
#   docker/install.sh FOLDER cpu|cuda
#
# A file from outside is refused unless its hash is in constraints.txt or docker/torch-cpu.txt; that holds for the
# tools of the build, too. Needs uv, and runs in the root of the repository.
set -eu
folder=$1 device=$2
projects="client core workers service"
locks="--constraint constraints.txt"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

case $device in
cuda) ;;
cpu)
    if [ -f docker/torch-cpu.txt ]; then
        locks="$locks --constraint docker/torch-cpu.txt"
        export UV_TORCH_BACKEND=cpu
    else
        echo "docker/torch-cpu.txt is missing (make lock-image writes it): torch is installed as published, with CUDA" >&2
    fi
    ;;
*)
    echo "DEVICE is cpu or cuda, not $device" >&2
    exit 1
    ;;
esac

# Installs what the requirements on standard input need from outside into a new environment.
install_third_party() {
    uv venv --quiet "$1"
    # shellcheck disable=SC2046,SC2086  # several options
    uv pip compile --quiet --python "$1/bin/python" --no-header --no-annotate $locks \
        $(printf -- '--no-emit-package spacte-%s ' $projects) --output-file "$scratch/needed.txt" - >/dev/null
    # shellcheck disable=SC2086
    uv pip install --quiet --python "$1/bin/python" --require-hashes --no-deps $locks --requirement "$scratch/needed.txt"
}

for project in $projects; do
    uv build --quiet --wheel --require-hashes --build-constraints constraints.txt --out-dir "$scratch/wheels" "$project"
done
# With the driver of s3:, for models, inputs and jobs in an object store.
{
    printf '%s\n' "$scratch"/wheels/*.whl
    echo s3fs
} | install_third_party "$folder"
# shellcheck disable=SC2046,SC2086  # several names
uv pip install --quiet --python "$folder/bin/python" --no-deps --no-index --find-links "$scratch/wheels" \
    $(printf 'spacte-%s ' $projects)
uv pip check --quiet --python "$folder/bin/python"

echo cyclonedx-bom | install_third_party "$scratch/tools"
"$scratch/tools/bin/cyclonedx-py" environment --output-reproducible --output-file "$folder/sbom.cdx.json" \
    "$folder/bin/python"
