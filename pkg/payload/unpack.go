package payload

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"github.com/edgebox/edgebox/pkg/durable"
)

// Unpack makes sure that the named files, or all, lie whole in p.BinDir(dir), and
// returns that directory. Files that are there already are kept; those not known
// to be whole (see marker) are read and compared, and replaced when they differ.
//
// It does not wait for the disk, so that a first boot is quick: call Sync later,
// off the path of the boot. When all is in place, which is the usual case, it
// writes nothing, takes no lock, and works for users who may only read dir.
// Several processes may call it at once.
//
// When the disk is full the error is a *NoSpaceError.
func (p *Payload) Unpack(dir string, names ...string) (binDir string, err error) {
	entries, err := p.find(names)
	if err != nil {
		return "", err
	}
	binDir = p.BinDir(dir)
	known, err := readMarker(binDir)
	if err != nil {
		return "", err
	}
	if len(missing(binDir, entries, known)) == 0 {
		return binDir, nil
	}

	if err := p.unpack(dir, entries); err != nil {
		if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
			err = noSpace(binDir, entries, err)
		}
		return "", fmt.Errorf("unpack %s: %w", p.file.Name(), err)
	}
	return binDir, nil
}

// Verify decompresses and checks everything without writing it. A file that was
// just downloaded is checked this way before it replaces the running one.
func (p *Payload) Verify() error {
	return p.eachChunk(p.index.Files, func(c piece, raw []byte) error {
		if sum(raw) != c.SHA256 {
			return p.damaged("a chunk of " + p.index.Files[c.entry].Name + " has another checksum")
		}
		return nil
	})
}

// unpack does the work of Unpack under the lock.
func (p *Payload) unpack(dir string, entries []entry) error {
	binDir := p.BinDir(dir)
	if err := durable.MkdirAll(binDir, 0o755); err != nil { // the first folder of a new data dir
		return err
	}
	unlock, err := lock(dir)
	if err != nil {
		return err
	}
	defer unlock()
	if err := durable.RemoveTemp(binDir); err != nil { // of a process that was killed
		return err
	}
	known, err := readMarker(binDir) // again: another process may have been faster
	if err != nil {
		return err
	}
	var absent []entry
	for _, e := range missing(binDir, entries, known) {
		if whole(binDir, e) {
			known.add(e.File)
			continue
		}
		absent = append(absent, e)
	}
	if len(absent) > 0 {
		if err := p.disk.forget(binDir, known, absent); err != nil {
			return err
		}
		if err := p.write(binDir, absent); err != nil {
			return err
		}
		for _, e := range absent {
			known.add(e.File)
		}
	}
	return p.disk.writeMarker(binDir, known, false)
}

// missing returns the entries that are not known to lie whole in binDir.
func missing(binDir string, entries []entry, known marker) []entry {
	var out []entry
	for _, e := range entries {
		if !known.has(e.File) || !fits(binDir, e) {
			out = append(out, e)
		}
	}
	return out
}

// fits compares what stat tells.
func fits(binDir string, e entry) bool {
	info, err := os.Lstat(filepath.Join(binDir, e.Name))
	return err == nil && info.Size() == e.Size && info.Mode() == e.Mode
}

// whole compares the content too.
func whole(binDir string, e entry) bool {
	if !fits(binDir, e) {
		return false
	}
	f, err := os.Open(filepath.Join(binDir, e.Name))
	if err != nil {
		return false
	}
	defer f.Close()
	places := placesOf(e)
	return parallel(len(e.Chunks), func(i int, s *scratch) error {
		raw := grow(&s.out, e.Chunks[i].Size)
		if _, err := f.ReadAt(raw, places[i]); err != nil {
			return err
		}
		if sum(raw) != e.Chunks[i].SHA256 {
			return errors.New("differs")
		}
		return nil
	}) == nil
}

// placesOf returns where in the file each chunk belongs.
func placesOf(e entry) []int64 {
	places := make([]int64, len(e.Chunks))
	var at int64
	for i, c := range e.Chunks {
		places[i] = at
		at += c.Size
	}
	return places
}

// output is a file on its way to its name.
type output struct {
	entry   entry
	tmp     *os.File
	pending atomic.Int64 // chunks still to be written
}

// write unpacks the entries into temporary files and renames each as soon as it
// is complete. When it fails no temporary file is left.
func (p *Payload) write(binDir string, entries []entry) (err error) {
	outputs := make([]*output, 0, len(entries))
	defer func() {
		for _, o := range outputs {
			_ = o.tmp.Close() // without fsync there is nothing to learn from it
			if err != nil {
				_ = os.Remove(o.tmp.Name()) // unless it has been renamed
			}
		}
	}()
	for _, e := range entries {
		tmp, err := os.CreateTemp(binDir, "."+e.Name+".tmp-*") // a name that durable.RemoveTemp knows
		if err != nil {
			return err
		}
		o := &output{entry: e, tmp: tmp}
		outputs = append(outputs, o)
		// A full disk shows here, before any work is done.
		if err := p.disk.allocate(tmp, e.Size); err != nil {
			return err
		}
		o.pending.Store(int64(len(e.Chunks)))
		if len(e.Chunks) == 0 {
			if err := p.finish(binDir, o); err != nil {
				return err
			}
		}
	}
	return p.eachChunk(entries, func(c piece, raw []byte) error {
		o := outputs[c.entry]
		if _, err := p.disk.writeAt(o.tmp, raw, c.place); err != nil {
			return err
		}
		if o.pending.Add(-1) == 0 {
			return p.finish(binDir, o)
		}
		return nil
	})
}

func (p *Payload) finish(binDir string, o *output) error {
	if err := o.tmp.Chmod(o.entry.Mode); err != nil {
		return err
	}
	return p.disk.rename(o.tmp.Name(), filepath.Join(binDir, o.entry.Name))
}

// piece is a chunk to be unpacked.
type piece struct {
	chunk
	entry int   // number of the file
	place int64 // in the file
}

// eachChunk decompresses the entries on all cores and calls do with each of their
// chunks and its content, which is valid until do returns.
func (p *Payload) eachChunk(entries []entry, do func(c piece, raw []byte) error) error {
	pieces := map[int][]piece{} // by frame
	for i, e := range entries {
		places := placesOf(e)
		for j, c := range e.Chunks {
			pieces[c.Frame] = append(pieces[c.Frame], piece{c, i, places[j]})
		}
	}
	// The frame of small files takes longest: it must not come last.
	frames := slices.SortedFunc(maps.Keys(pieces), func(a, b int) int {
		return cmp.Or(cmp.Compare(p.index.Frames[b].Size, p.index.Frames[a].Size), cmp.Compare(a, b))
	})
	return parallel(len(frames), func(i int, s *scratch) error {
		content, err := p.decode(frames[i], s)
		if err != nil {
			return err
		}
		for _, c := range pieces[frames[i]] {
			if err := do(c, content[c.At:c.At+c.Size]); err != nil {
				return err
			}
		}
		return nil
	})
}

// decode returns the content of a frame, valid until the next use of s. The SHA-256
// is that of the compressed frame, which is a third of the work: that the content is
// right then follows, and zstd's own checksum of it tells of bad memory.
func (p *Payload) decode(i int, s *scratch) ([]byte, error) {
	f := p.index.Frames[i]
	packed := grow(&s.in, f.Compressed)
	if _, err := p.file.ReadAt(packed, p.starts[i]); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, p.damaged("it is cut short")
		}
		return nil, err
	}
	if sum(packed) != f.SHA256 {
		return nil, p.damaged("a frame has another checksum")
	}
	if s.dec == nil {
		var err error
		s.dec, err = zstd.NewReader(nil,
			zstd.WithDecoderConcurrency(1),
			zstd.WithDecoderMaxMemory(maxFrameSize),
		)
		if err != nil {
			return nil, err
		}
	}
	content, err := s.dec.DecodeAll(packed, grow(&s.out, f.Size)[:0])
	if err != nil {
		return nil, p.damaged(err.Error())
	}
	if int64(len(content)) != f.Size {
		return nil, p.damaged("a frame has another size")
	}
	return content, nil
}

// A NoSpaceError says that the file system has no room for what is to be
// unpacked. Nothing half-written is left.
type NoSpaceError struct {
	Dir       string
	Need      int64 // bytes
	Available int64 // bytes, after the attempt was cleaned up; -1 if unknown
	Err       error
}

func (e *NoSpaceError) Error() string {
	msg := fmt.Sprintf("the file system of %s is full: %d MiB needed", e.Dir, (e.Need+1<<20-1)>>20)
	if e.Available >= 0 {
		msg += fmt.Sprintf(", %d MiB free", e.Available>>20)
	}
	return msg
}

func (e *NoSpaceError) Unwrap() error { return e.Err }

func noSpace(dir string, entries []entry, cause error) error {
	e := &NoSpaceError{Dir: dir, Available: -1, Err: cause}
	for _, entry := range entries {
		if !fits(dir, entry) {
			e.Need += entry.Size
		}
	}
	var st unix.Statfs_t
	if unix.Statfs(dir, &st) == nil {
		e.Available = int64(st.Bavail) * st.Bsize
	}
	return e
}

// scratch is the memory of one worker.
type scratch struct {
	in, out []byte
	dec     *zstd.Decoder
}

// grow returns n bytes at *buf, with any content.
func grow(buf *[]byte, n int64) []byte {
	if int64(cap(*buf)) < n {
		*buf = make([]byte, n)
	}
	return (*buf)[:n]
}

// parallel calls do for 0 to n-1 on all cores, in that order as far as cores
// allow, and returns the first error. After an error no new call starts.
func parallel(n int, do func(i int, s *scratch) error) error {
	var (
		next   atomic.Int64
		failed atomic.Bool
		once   sync.Once
		first  error
		wg     sync.WaitGroup
	)
	for range min(n, runtime.GOMAXPROCS(0)) {
		wg.Go(func() {
			s := new(scratch)
			for !failed.Load() {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				if err := do(i, s); err != nil {
					once.Do(func() { first = err })
					failed.Store(true)
				}
			}
		})
	}
	wg.Wait()
	return first
}
