#!/usr/bin/env bash
# Do the exported files give the same answers on ARM as on x86?
#
#     benchmarks/arm_check.sh DIR [--work FOLDER]
#
# Loads and runs every DIR/*.tflite with LiteRT's aarch64 wheel under qemu's user-mode emulation, on
# an old core and on one with everything, with and without the default delegate (XNNPACK), and
# compares with the same wheel on this machine. It says whether the files are right there; the time
# it takes says nothing about a phone.
#
# Needs: x86_64, Debian or Ubuntu (apt-get, dpkg), the network, and a Python with pip, numpy and
# ai-edge-litert: the checkout's .venv, or what the variable PYTHON names. Everything else (qemu, an
# aarch64 Python, the wheels) is unpacked into FOLDER (build/arm_check unless said), about 200 MB;
# nothing is installed and root isn't needed. A second call finds it there.
#
# Ends with 0 when all files agree, 1 when one fails or differs, 2 when the check couldn't be made.

set -Eeuo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
mirror=http://deb.debian.org
python_release=bookworm # Python 3.11, which the wheels below are for
qemu_release=trixie # static, and bookworm's qemu 7.2 runs XNNPACK's SME kernels for int8 wrongly
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
seconds=600 # for one run of one file

stop() {
  printf 'arm_check: %s\n' "$*" >&2
  exit 2
}

trap 'stop "line $LINENO failed"' ERR

say() {
  printf '%s\n' "$*" >&2
}

directory='' work=''
while (($#)); do
  case $1 in
    --work)
      [[ $# -ge 2 ]] || stop "--work expects a folder"
      work=$2
      shift
      ;;
    -h | --help)
      sed -n '2,/^$/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
      exit 0
      ;;
    -*) stop "expected DIR [--work FOLDER]. Received: $1" ;;
    *)
      [[ -z $directory ]] || stop "expected one folder. Received: $directory $1"
      directory=$1
      ;;
  esac
  shift
done
[[ -n $directory ]] || stop "expected a folder with .tflite files: benchmarks/arm_check.sh DIR"
[[ -d $directory ]] || stop "expected a folder. Received: $directory"
shopt -s nullglob
files=("$directory"/*.tflite)
((${#files[@]})) || stop "expected .tflite files in $directory; there is none"

[[ $(uname -m) == x86_64 ]] || stop "expected an x86_64 machine. Received: $(uname -m)"
for tool in apt-get dpkg-deb flock timeout; do
  command -v "$tool" > /dev/null || stop "expected Debian or Ubuntu: there is no $tool"
done
python=${PYTHON:-$here/../.venv/bin/python}
"$python" "$here/arm_run.py" versions > /dev/null ||
  stop "expected a Python with numpy and ai-edge-litert. Received: $python (choose with PYTHON=...)"

work=${work:-$here/../build/arm_check}
mkdir -p "$work"
work=$(cd "$work" && pwd)
exec 9> "$work/lock"
flock --nonblock 9 || stop "another check is using $work"
# Not under $work: what the check leaves there is kept, and this is not.
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# Write an apt configuration of our own: own sources, both architectures, nothing installed. The
# machine's still counts (a proxy, say), less what it does after an update.
configure_apt() {
  mkdir -p "$work/apt/lists/partial" "$work/apt/cache/archives/partial"
  : > "$work/apt/status"
  cat > "$work/apt/sources.list" << END
deb [arch=arm64 signed-by=$keyring] $mirror/debian $python_release main
deb [arch=arm64 signed-by=$keyring] $mirror/debian-security $python_release-security main
deb [arch=amd64 signed-by=$keyring] $mirror/debian $qemu_release main
END
  cat > "$work/apt/apt.conf" << END
#clear APT::Update;
#clear APT::Architectures;
#clear APT::Default-Release;
APT::Architecture "arm64";
APT::Architectures { "arm64"; "amd64"; };
APT::Sandbox::User "$(id -un)";
Acquire::Languages "none";
Dir::State "$work/apt";
Dir::State::status "$work/apt/status";
Dir::Cache "$work/apt/cache";
Dir::Etc::sourcelist "$work/apt/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
END
}

# Each of the two steps works in a folder NAME.part and renames it when done, so one that was cut
# off starts over.
unpack_debian() {
  say "Fetching qemu and an aarch64 Python from Debian ..."
  rm -rf "$work/apt" "$work/debian.part"
  mkdir -p "$work/apt" "$work/debian.part"
  if [[ ! -r $keyring ]]; then # on Ubuntu
    (cd "$scratch" && apt-get -qq download debian-archive-keyring) ||
      stop "can't fetch debian-archive-keyring: run 'apt-get update' as root and try again"
    dpkg-deb -x "$scratch"/debian-archive-keyring_*.deb "$work/apt/keyring"
    keyring=$work/apt/keyring$keyring
  fi
  configure_apt
  apt-get -c "$work/apt/apt.conf" -qq update ||
    stop "can't fetch Debian's package lists from $mirror"
  apt-get -c "$work/apt/apt.conf" -qq --download-only --yes --no-install-recommends \
    install python3.11 libstdc++6 qemu-user:amd64 > /dev/null ||
    stop "can't fetch Debian's packages from $mirror"
  local package
  for package in "$work"/apt/cache/archives/*_{arm64,all}.deb; do
    dpkg-deb -x "$package" "$work/debian.part/root"
  done
  dpkg-deb --fsys-tarfile "$work"/apt/cache/archives/qemu-user_*_amd64.deb |
    tar -x -C "$work/debian.part" --strip-components=3 ./usr/bin/qemu-aarch64
  rm -rf "$work/apt"
  mv "$work/debian.part" "$work/debian"
}

# The same versions as on this machine.
unpack_wheels() {
  say "Fetching aarch64 wheels: $pins ..."
  rm -rf "$work/wheels" "$work/site.part"
  # shellcheck disable=SC2086  # pins are words
  "$python" -m pip download -qq --disable-pip-version-check --dest "$work/wheels" \
    --only-binary=:all: --implementation cp --python-version 3.11 --abi cp311 --abi abi3 \
    --abi none --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 \
    --platform manylinux2014_aarch64 $pins ||
    stop "can't fetch the aarch64 wheels"
  local wheel
  for wheel in "$work"/wheels/*.whl; do
    "$python" -m zipfile -e "$wheel" "$work/site.part"
  done
  rm -rf "$work/wheels"
  printf '%s\n' "$pins" > "$work/site.part/pins"
  rm -rf "$work/site"
  mv "$work/site.part" "$work/site"
}

[[ -d $work/debian ]] || unpack_debian
pins=$("$python" -c 'from importlib.metadata import version as v
print(*(f"{name}=={v(name)}" for name in ("ai-edge-litert", "numpy")))')
[[ $(cat "$work/site/pins" 2> /dev/null) == "$pins" ]] || unpack_wheels

# arm CORE ARGUMENT...: run arm_run.py on an emulated core. LiteRT reads in /proc/cpuinfo which core
# it is on, and crashes when that is the x86 one; so the root has a file of its own.
arm() {
  local core=$1 part
  shift
  case $core in
    cortex-a53) part=0xd03 ;;
    max) part=0xd0b ;; # qemu's own has no number; Cortex-A76's
  esac
  mkdir -p "$work/debian/root/proc"
  cat > "$work/debian/root/proc/cpuinfo" << END
processor	: 0
Features	: fp asimd
CPU implementer	: 0x41
CPU architecture: 8
CPU variant	: 0x0
CPU part	: $part
CPU revision	: 0

END
  env -i LC_ALL=C.UTF-8 PYTHONPATH="$work/site" timeout "$seconds" "$work/debian/qemu-aarch64" \
    -cpu "$core" -L "$work/debian/root" "$work/debian/root/usr/bin/python3.11" \
    "$here/arm_run.py" "$@"
}

"$work/debian/qemu-aarch64" --version | head -n 1
"$python" "$here/arm_run.py" versions
arm max versions || stop "the aarch64 runtime doesn't start under qemu"
printf '\n%-28s %-10s %-8s %9s %9s %8s\n' \
  file core XNNPACK 'max diff' limit 'same class'

failed=0
for file in "${files[@]}"; do
  for delegate in yes no; do
    # In a subshell, so that bash's word on a crash goes into the log, too.
    if ! (timeout "$seconds" "$python" "$here/arm_run.py" run "$file" "$scratch/x86.npy" \
      --delegate "$delegate" || exit $?) > "$scratch/log" 2>&1; then
      printf '%-28s %-10s %-8s FAILS\n' "$(basename "$file")" x86 "$delegate"
      tail -n 3 "$scratch/log" >&2
      failed=1
      continue
    fi
    for core in cortex-a53 max; do
      printf '%-28s %-10s %-8s ' "$(basename "$file")" "$core" "$delegate"
      status=0
      (arm "$core" run "$file" "$scratch/arm.npy" --delegate "$delegate" || exit $?) \
        > "$scratch/log" 2>&1 || status=$?
      if ((status)); then
        printf 'FAILS (status %s)\n' "$status"
        tail -n 3 "$scratch/log" >&2
        failed=1
      elif ! "$python" "$here/arm_run.py" compare "$file" "$scratch/x86.npy" "$scratch/arm.npy" \
        2> "$scratch/log"; then
        tail -n 3 "$scratch/log" >&2
        failed=1
      fi
    done
  done
done
exit "$failed"
