#!/usr/bin/env bash
# From a bare machine to the file, the demo or the tests, in one command. `./build.sh help` lists them.
# Everything that is generated lies in build/ and dist/.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")"
root=$PWD
venv=$root/build/venv
file=$root/dist/mops-jobs.pyz
prometheus=$root/build/prometheus
model=examples/seir-by-age/requirements.txt
uv_version=0.13.9 # resolves the lock files, and installs the long ones

unset PYTHONPATH PYTHONHOME
unset PYTHONDONTWRITEBYTECODE # as in many containers: each process of the tests would compile all of them anew
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_ROOT_USER_ACTION=ignore npm_config_update_notifier=false
if [ ! -d "${HOME:-}" ] || [ ! -w "$HOME" ]; then # then pip, uv and npm keep what they fetched here
  export PIP_CACHE_DIR=$root/build/cache/pip UV_CACHE_DIR=$root/build/cache/uv npm_config_cache=$root/build/cache/npm
fi

usage() {
  cat <<'USAGE'
usage: ./build.sh [command]
  build          make dist/mops-jobs.pyz (the default)
  demo [--engine slurm]
                 build, then run the main job with the file, in a fresh directory; with slurm: on a Slurm of one
                 machine, which is started in build/slurm and stopped at the end
  test [ARG...]  set up all that the tests need, such as an Azurite, and run pytest with the arguments:
                 in several processes, unless they name tests
  test --fast [ARG...]
                 only the tests of one process, in under a minute: installs Python packages alone
  test --long [ARG...]
                 also storms, time windows and the longest crash trials, as before a release
  servers        set up only the servers and the browsers of the tests
  model          set up only the interpreter of the example that has packages of its own, which tests run
  lint           ruff, mypy, codespell, the checks of .github/, and the documents as a site
  docs           build the documents as a site, in build/site
  reliability [ARG...]
                 break things on purpose, whole: python -m reliability with the arguments
  lock [--keep]  resolve requirements/*.lock and the example's anew from pyproject.toml, with the newest versions;
                 --keep: change only the versions that pyproject.toml requires to change
  release [--tag v1.2.3]
                 make all files of a release in dist/, twice, and compare the two
  clean          remove build/ and dist/
PYTHON=/path/to/python3 names the Python to use; otherwise the first of python3, python3.15 ... python3.11 that starts.
USAGE
}

say() { printf '%s\n' "build.sh: $*" >&2; }
die() {
  say "$*"
  exit 1
}

same() { [ -f "$2" ] && [ "$(<"$1")" = "$(<"$2")" ]; }

# Debian and its kind, as root: the only place where this script installs anything outside of build/.
can_apt() { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; }
apt() { # one at a time: Python's part may be wanted while Node.js is on its way
  mkdir -p "$root/build"
  DEBIAN_FRONTEND=noninteractive flock "$root/build/apt.lock" apt-get -qq "$@" >/dev/null </dev/null
}
apt_install() {
  say "installing $*"
  apt update && apt --yes install --no-install-recommends "$@"
}

# --- Python -------------------------------------------------------------------------------------------------------

# Print the interpreter behind a name, if it starts and is new enough. A version manager's shim may do neither.
real_python() {
  "$1" -c 'import sys; sys.version_info >= (3, 11) or sys.exit(1); print(sys.executable)' 2>/dev/null </dev/null
}

find_python() {
  local name
  if [ -n "${PYTHON:-}" ]; then
    real_python "$PYTHON" || die "PYTHON=$PYTHON does not start, or is older than Python 3.11."
    return
  fi
  for name in python3 python3.15 python3.14 python3.13 python3.12 python3.11; do
    real_python "$name" && return
  done
  die "needs Python 3.11 or newer; found none. On Debian or Ubuntu: apt-get install python3 python3-venv"
}

# Make a virtual environment, unless it is there and starts.
make_venv() {
  local venv=$1 python package
  "$venv/bin/python" -c '' 2>/dev/null && return
  python=$(find_python)
  if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    package=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
    can_apt || die "$python cannot make virtual environments. On Debian or Ubuntu: apt-get install $package"
    apt_install "$package" || die "$package could not be installed."
  fi
  rm -rf "$venv"
  "$python" -m venv "$venv"
}

# Install what a lock file names into a virtual environment, unless the same bytes were installed already.
install_lock() {
  local venv=${2:-$venv}
  local stamp=$venv/${1##*/}
  make_venv "$venv"
  same "$1" "$stamp" && return
  say "installing $1"
  "$venv/bin/python" -m pip install --quiet --require-hashes --no-deps --requirement "$1"
  cp "$1" "$stamp"
}

install_uv() {
  make_venv "$venv"
  "$venv/bin/python" -m pip install --quiet --no-deps "uv==$uv_version"
}

# The same for long lock files, in a third of pip's time. Where only pip's settings lead to packages, pip does it.
install_long_lock() {
  local into=${2:-$venv}
  local stamp=$into/${1##*/}
  make_venv "$into"
  same "$1" "$stamp" && return
  say "installing $1 with uv"
  if install_uv && "$venv/bin/python" -m uv pip install --quiet --python "$into/bin/python" --native-tls \
    --require-hashes --no-deps --requirement "$1"; then
    # A third of it is never imported.
    "$into/bin/python" -m compileall -qq -j 0 -x '/(tests|pip|mypyc?)/' "$into"/lib/python*/site-packages || true
    cp "$1" "$stamp"
  else
    install_lock "$1" "$into"
  fi
}

# --- Azurite and dynalite -------------------------------------------------------------------------------------------

node_is_new_enough() {
  command -v npm >/dev/null && node -e 'process.exit(parseInt(process.versions.node) >= 20 ? 0 : 1)' 2>/dev/null </dev/null
}

# Install the server that tests/NAME/package-lock.json names into build/NAME, unless the same one was installed already.
install_server() {
  local name=$1 directory=$root/build/$1
  same "tests/$name/package-lock.json" "$directory/installed" && return
  if ! node_is_new_enough; then
    ! can_apt || apt_install nodejs npm || true
    node_is_new_enough || die "the tests need Node.js 20 or newer with npm, for Azurite and dynalite." \
      "On Debian or Ubuntu: apt-get install nodejs npm; elsewhere your package manager or version manager has it."
  fi
  say "installing $name"
  rm -rf "$directory"
  mkdir -p "$directory"
  cp -r "tests/$name/." "$directory"
  (cd "$directory" && npm ci --omit=dev --omit=optional --ignore-scripts --no-audit --no-fund --loglevel=error >/dev/null </dev/null)
  cp "tests/$name/package-lock.json" "$directory/installed"
}

# --- browsers -------------------------------------------------------------------------------------------------------

# They drive the pages of `serve` in the tests: the distribution's, none that a package would fetch.
find_chromium() { command -v chromium || command -v chromium-browser; }
find_firefox() { command -v firefox-esr || command -v firefox; }

install_browsers() {
  local missing=()
  find_chromium >/dev/null || missing+=(chromium)
  find_firefox >/dev/null || missing+=(firefox-esr)
  [ ${#missing[@]} != 0 ] || return 0
  ! can_apt || apt_install "${missing[@]}" || true
  find_chromium >/dev/null && find_firefox >/dev/null || die "the tests need Chromium and Firefox." \
    "On Debian: apt-get install ${missing[*]}; elsewhere your package manager has them."
}

# --- shells ----------------------------------------------------------------------------------------------------------

# Completion is tested by a Tab in each shell that is there; these are small. Without them their tests are skipped.
install_shells() {
  ! command -v zsh >/dev/null || ! command -v tcsh >/dev/null || return 0
  ! can_apt || apt_install zsh tcsh || true
}

# --- Slurm ------------------------------------------------------------------------------------------------------------

# The tests start its daemons themselves. Without /etc/slurm/slurm.conf, those of the packages do not start, or end at
# once. Where apt-get cannot install them, the tests of Slurm are skipped.
has_slurm() {
  local program
  for program in munged slurmctld slurmd sbatch; do
    PATH=$PATH:/usr/sbin command -v "$program" >/dev/null || return 1
  done
}

install_slurm() {
  ! has_slurm && can_apt || return 0
  apt_install slurm-wlm munge
}

# --- Prometheus -----------------------------------------------------------------------------------------------------

# Unpacked, not installed: a package that is installed starts its service, and a test wants the programs alone.
install_prometheus() {
  [ ! -x "$prometheus/usr/bin/prometheus" ] || return 0
  ! command -v prometheus >/dev/null || ! command -v promtool >/dev/null || return 0
  if command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null; then
    say "fetching Prometheus"
    rm -rf "$prometheus"
    mkdir -p "$prometheus"
    ! can_apt || apt update || true
    (
      cd "$prometheus" || exit
      apt-get -qq download prometheus >/dev/null 2>&1 || exit
      apt-get -qq download promtool >/dev/null 2>&1 || true # older Debian has it in the other package
      for package in *.deb; do dpkg-deb --extract "$package" .; done
      rm ./*.deb
    ) || true
  fi
  [ -x "$prometheus/usr/bin/promtool" ] || die "the tests need prometheus and promtool." \
    "On Debian or Ubuntu: apt-get update; elsewhere your package manager has them, or prometheus.io."
}

# --- the commands ---------------------------------------------------------------------------------------------------

build_file() { "$venv/bin/python" onefile/build.py --output "$file" >&2; }
build_site() { "$venv/bin/python" -m mkdocs --quiet build --strict; }

cmd_build() {
  make_venv "$venv"
  same requirements/dev.lock "$venv/dev.lock" || install_lock requirements/build.lock
  build_file
}

cmd_demo() {
  [ $# = 0 ] || [ "$*" = '--engine slurm' ] || die "invalid arguments '$*': expected --engine slurm or none."
  [ $# = 0 ] || install_slurm
  cmd_build
  local words=(bash examples/demo.sh "$@" "$venv/bin/python" "$file")
  [ $# = 0 ] || words=("$venv/bin/python" -P tests/support/slurm.py build/slurm "${words[@]}")
  exec "${words[@]}"
}

cmd_servers() {
  install_server azurite
  install_server dynalite
  install_server s3rver
  install_browsers
  install_shells
  install_slurm
  install_prometheus
}

cmd_test() {
  local arg in_parallel=(--numprocesses=auto --dist=worksteal) # neighbours stay together, and with them what they share
  for arg in "$@"; do
    if [ "$arg" = --fast ]; then # tests/conftest.py knows which these are
      install_long_lock requirements/dev.lock
      exec "$venv/bin/python" -m pytest "${in_parallel[@]}" "$@"
    fi
  done
  cmd_servers &
  local servers=$!
  trap wait EXIT # whatever fails here: apt-get is not left alone
  install_long_lock requirements/dev.lock
  install_long_lock "$model" "$root/build/model" & # the interpreter of a model that has packages of its own
  local model_venv=$!
  build_file
  # The tests start thousands of processes. Each would compile the modules that none before it has compiled.
  "$venv/bin/python" -m compileall -q mops_jobs.py mopsjobs bench reliability tests/support
  wait "$model_venv"
  wait "$servers"
  exec "$venv/bin/python" -m pytest "${in_parallel[@]}" "$@"
}

cmd_model() {
  install_long_lock requirements/dev.lock
  install_long_lock "$model" "$root/build/model"
}

cmd_reliability() {
  install_server azurite
  install_server dynalite
  install_long_lock requirements/dev.lock
  install_long_lock "$model" "$root/build/model"
  build_file
  exec "$venv/bin/python" -m reliability "$@"
}

# In two directories, with two umasks and time zones: what differs then would differ between machines.
cmd_release() {
  local again=$root/build/release-again
  if [ -z "${SOURCE_DATE_EPOCH:-}" ]; then
    SOURCE_DATE_EPOCH=$(git log -1 --format=%ct 2>/dev/null) || die "set SOURCE_DATE_EPOCH: there is no git commit here."
  fi
  export SOURCE_DATE_EPOCH
  install_long_lock requirements/release.lock
  rm -rf "$root/dist" "$again"
  build_file
  "$venv/bin/python" onefile/release.py all "$@"
  (
    umask 077
    export TZ=Pacific/Apia
    "$venv/bin/python" onefile/build.py --output "$again/${file##*/}" >/dev/null
    "$venv/bin/python" onefile/release.py all --output "$again"
  )
  diff -r "$root/dist" "$again" || die "a second release from the same commit has other bytes."
  say "made twice with the same bytes:"
  cat "$root/dist/SHA256SUMS"
}

cmd_lint() {
  install_long_lock requirements/dev.lock
  "$venv/bin/python" -m ruff check --quiet .
  "$venv/bin/python" -m ruff format --check --quiet .
  "$venv/bin/python" -m mypy
  "$venv/bin/codespell"
  "$venv/bin/zizmor" --offline --no-progress -qq .github
  fits() { # what the services that read these files would accept
    local schema=$1 said
    shift
    said=$("$venv/bin/check-jsonschema" --builtin-schema "vendor.$schema" "$@" 2>&1) || die "$said"
  }
  fits github-workflows .github/workflows/*.yml
  fits dependabot .github/dependabot.yml
  fits github-issue-config .github/ISSUE_TEMPLATE/config.yml
  fits github-issue-forms .github/ISSUE_TEMPLATE/bug.yml .github/ISSUE_TEMPLATE/feature.yml
  fits citation-file-format CITATION.cff
  build_site
}

cmd_docs() {
  install_long_lock requirements/dev.lock
  build_site
  say "the site is in build/site"
}

cmd_lock() {
  local upgrade=--upgrade
  case ${1:-} in
    --keep) upgrade='' ;;
    ?*) die "invalid argument '$1': expected --keep or none." ;;
  esac
  install_uv
  # Whatever this machine is set to (mirrors, folders of wheels, constraints), the locks name versions and hashes only.
  compile() {
    local lock=$1
    shift
    [ -n "$upgrade" ] || ! [ -e "$lock" ] || cp "$lock" "$lock.body" # uv keeps the versions of its output file
    env PIP_CONFIG_FILE=/dev/null UV_NO_CONFIG=1 UV_FIND_LINKS='' UV_CONSTRAINT='' "$venv/bin/python" -m uv pip compile \
      --quiet $upgrade --universal --python-version 3.11 --generate-hashes --native-tls \
      --no-emit-index-url --no-emit-find-links --no-emit-package pip --no-header "$@" \
      --output-file "$lock.body" >/dev/null
    {
      echo "# Exact versions and hashes for every platform and every Python from 3.11. Written by: ./build.sh lock"
      cat "$lock.body"
    } >"$lock"
    rm "$lock.body"
  }
  compile requirements/runtime.lock pyproject.toml --no-emit-package setuptools
  compile requirements/dev.lock pyproject.toml --group dev --constraint requirements/runtime.lock
  compile requirements/build.lock --group build --no-emit-package setuptools --constraint requirements/dev.lock
  compile requirements/release.lock --group release --constraint requirements/dev.lock
  compile requirements/bench.lock --group bench --constraint requirements/runtime.lock
  compile requirements/peers.lock --group peers
  compile "$model" --group model
}

command=${1:-build}
[ $# = 0 ] || shift
case $command in
  build | demo | servers | model | test | reliability | lint | docs | lock | release) "cmd_$command" "$@" ;;
  clean) rm -rf "$root/build" "$root/dist" ;;
  help | -h | --help) usage ;;
  *)
    usage >&2
    exit 2
    ;;
esac
