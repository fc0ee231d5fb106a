package preflight

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// File systems on which state would be lost or damaged, by statfs(2)'s type.
var unfit = map[int64]string{
	unix.NFS_SUPER_MAGIC:   "NFS, where the database's locks do not hold",
	unix.SMB_SUPER_MAGIC:   "SMB, where the database's locks do not hold",
	unix.SMB2_SUPER_MAGIC:  "SMB, where the database's locks do not hold",
	unix.CIFS_SUPER_MAGIC:  "CIFS, where the database's locks do not hold",
	unix.MSDOS_SUPER_MAGIC: "FAT, which has no permissions or links",
	unix.SQUASHFS_MAGIC:    "squashfs, which is read-only",
	unix.ISOFS_SUPER_MAGIC: "ISO 9660, which is read-only",
}

// magic is the type of a file system. On 32-bit machines the field is signed and too short.
func magic(st unix.Statfs_t) int64 { return int64(uint32(st.Type)) }

func probeDataDir(h *host, in Input) []Result {
	const name = "data dir"
	dir := h.existing(in.Paths.Data)
	st, err := h.statfs(dir)
	if err != nil {
		return one(name, Error, fmt.Sprintf("data dir %s: %v", in.Paths.Data, err), "choose another --data-dir")
	}
	if kind, found := unfit[magic(st)]; found {
		return one(name, Error, fmt.Sprintf("data dir %s is on %s", in.Paths.Data, kind), "choose a --data-dir on ext4, xfs or btrfs")
	}
	if st.Flags&unix.ST_RDONLY != 0 {
		return one(name, Error, fmt.Sprintf("data dir %s is on a read-only file system", in.Paths.Data),
			"mount it read-write (dmesg says if the kernel gave up on a failing disk), or choose another --data-dir")
	}

	const mib = 1 << 20
	free := st.Bavail * uint64(st.Bsize)
	size := st.Blocks * uint64(st.Bsize)
	space := fmt.Sprintf("data dir %s has %d MiB free of %d", in.Paths.Data, free/mib, size/mib)
	more := "free some space (edgebox images rm), or move the data dir to a larger disk"
	if free < 64*mib {
		return one(name, Error, space, more)
	}
	if st.Files > 0 && st.Ffree < 1000 {
		return one(name, Error, fmt.Sprintf("data dir %s has only %d inodes free", in.Paths.Data, st.Ffree),
			"delete small files, or use a file system made with more inodes (mkfs.ext4 -N)")
	}
	if err := h.write(dir); err != nil {
		return one(name, Error, fmt.Sprintf("data dir %s cannot be written: %v", in.Paths.Data, err), writeFix(err))
	}

	var rs []Result
	if free < 1024*mib || size > 0 && free*10 < size {
		rs = append(rs, Result{name, Warning, space + ": the kubelet evicts pods when less than 5 % is left", more})
	}
	if st.Files > 0 && st.Ffree*20 < st.Files {
		rs = append(rs, Result{name, Warning, fmt.Sprintf("data dir %s has %d of %d inodes left", in.Paths.Data, st.Ffree, st.Files),
			"delete small files before the kubelet evicts pods"})
	}
	if magic(st) == unix.TMPFS_MAGIC || magic(st) == unix.RAMFS_MAGIC {
		rs = append(rs, Result{name, Warning, fmt.Sprintf("data dir %s is in memory: a reboot loses the cluster", in.Paths.Data),
			"choose a --data-dir on a disk, unless that is what you want"})
	}
	if rs == nil {
		return ok(name, "%s", space)
	}
	return rs
}

func writeFix(err error) string {
	switch {
	case errors.Is(err, unix.ENOSPC):
		return "free some space, or move the data dir to a larger disk"
	case errors.Is(err, unix.EDQUOT):
		return "raise the disk quota of root"
	case errors.Is(err, unix.ENOTDIR):
		return "move the file that is in its place, or choose another --data-dir"
	}
	return "make it writable for root, or choose another --data-dir"
}

// tryWrite writes a file of one page in dir and deletes it.
func tryWrite(dir string) error {
	f, err := os.CreateTemp(dir, ".edgebox-check-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(make([]byte, 4096))
	return errors.Join(err, f.Close())
}

func probeDataVersion(_ *host, in Input) []Result {
	const name = "data version"
	if in.DataVersion == "" {
		return ok(name, "no edgebox has used %s yet", in.Paths.Data)
	}
	if newer(in.DataVersion, in.Version) {
		return one(name, Error, fmt.Sprintf("%s was last used by edgebox %s, which is newer than this %s", in.Paths.Data, in.DataVersion, in.Version),
			"install that version or a later one, or restore a backup that this version made")
	}
	return ok(name, "%s was last used by edgebox %s", in.Paths.Data, in.DataVersion)
}

// newer compares vMAJOR.MINOR.PATCH, whatever follows. What is no such version is never newer.
func newer(a, b string) bool {
	va, aOK := version(a)
	vb, bOK := version(b)
	if !aOK || !bOK {
		return false
	}
	for i := range va {
		if va[i] != vb[i] {
			return va[i] > vb[i]
		}
	}
	return false
}

func version(s string) (v [3]int, valid bool) {
	s, _, _ = strings.Cut(strings.TrimPrefix(s, "v"), "-")
	s, _, _ = strings.Cut(s, "+")
	parts := strings.Split(s, ".")
	if len(parts) != 3 {
		return v, false
	}
	for i, p := range parts {
		n, err := strconv.Atoi(p)
		if err != nil {
			return v, false
		}
		v[i] = n
	}
	return v, true
}

func probeOverlay(h *host, in Input) []Result {
	dir := h.existing(in.Paths.Data)
	err := h.overlay(dir)
	if err == nil {
		return ok("overlayfs", "overlayfs works in %s", dir)
	}
	if untried := (untriedError{}); errors.As(err, &untried) { // the data dir's own probe says why
		return one("overlayfs", Info, fmt.Sprintf("overlayfs could not be tried: %v", err), "")
	}
	known := false
	for line := range strings.Lines(h.read("/proc/filesystems")) {
		known = known || strings.TrimSpace(strings.TrimPrefix(line, "nodev")) == "overlay"
	}
	message := fmt.Sprintf("overlayfs does not work in %s: %v", dir, err)
	if !known {
		return one("overlayfs", Error, message, "load the module (modprobe overlay), or use a kernel with CONFIG_OVERLAY_FS")
	}
	fix := "choose a --data-dir on ext4, btrfs, or xfs made with ftype=1"
	if st, err := h.statfs(dir); err == nil {
		if magic(st) == unix.OVERLAYFS_SUPER_MAGIC {
			fix = "this looks like a container's root: mount a volume at " + in.Paths.Data
		}
		if _, found := unfit[magic(st)]; found {
			return one("overlayfs", Info, message, "")
		}
	}
	return one("overlayfs", Error, message, fix)
}

// untriedError is one of the preparations for an overlay.
type untriedError struct{ error }

// tryOverlay mounts an overlay with its upper layer in dir and deletes a file of the lower layer through it, in a mount
// namespace that ends with the attempt.
func tryOverlay(dir string) error {
	tmp, err := os.MkdirTemp(dir, ".edgebox-check-")
	if err != nil {
		return untriedError{err}
	}
	defer os.RemoveAll(tmp)
	return inNamespace(unix.CLONE_NEWNS, func() error {
		lower, upper, work, merged := filepath.Join(tmp, "lower"), filepath.Join(tmp, "upper"), filepath.Join(tmp, "work"), filepath.Join(tmp, "merged")
		for _, d := range []string{lower, upper, work, merged} {
			if err := os.Mkdir(d, 0o700); err != nil {
				return untriedError{err}
			}
		}
		if err := os.WriteFile(filepath.Join(lower, "file"), nil, 0o600); err != nil {
			return untriedError{err}
		}
		if err := hasFileTypes(lower); err != nil {
			return err
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return fmt.Errorf("make mounts private: %w", err)
		}
		options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", lower, upper, work)
		if err := unix.Mount("overlay", merged, "overlay", 0, options); err != nil {
			return fmt.Errorf("mount: %w", err)
		}
		defer func() { _ = unix.Unmount(merged, unix.MNT_DETACH) }()
		if err := os.Remove(filepath.Join(merged, "file")); err != nil {
			return fmt.Errorf("write a whiteout: %w", err)
		}
		return nil
	})
}

// hasFileTypes makes sure that the file system tells types with names (d_type): without, the kernel mounts an overlay
// all the same, but deleted files come back. xfs made with ftype=0 is such a one.
func hasFileTypes(dir string) error {
	const typeOffset = 18 // of d_type in linux_dirent64
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	buf := make([]byte, 4096)
	n, err := unix.Getdents(int(f.Fd()), buf)
	if err != nil {
		return fmt.Errorf("list %s: %w", dir, err)
	}
	if n > typeOffset && buf[typeOffset] == unix.DT_UNKNOWN {
		return errors.New("its file system does not store file types in folders (d_type)")
	}
	return nil
}
