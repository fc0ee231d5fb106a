package framework

import (
	"bytes"
	"cmp"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// SetClock makes the host's clock wrong by so much, in whole seconds: that of Go programs that are started from now on
// by Command and its relatives, and what edgebox turns itself into. Pods and helper processes keep the machine's time.
//
// The kernel has one wall clock for all. But programs read it by a function in a page that the kernel maps into each of
// them, the vDSO, and this function is replaced before the program's first instruction. It works on amd64.
func (h *Host) SetClock(offset time.Duration) error {
	if runtime.GOARCH != "amd64" {
		return fmt.Errorf("no code for the clock of %s", runtime.GOARCH)
	}
	h.clock.Store(int64(offset / time.Second))
	return nil
}

// wrongClock prepends to a command what runs it with a clock that is wrong by so many seconds.
func wrongClock(seconds int64, args []string) []string {
	return append([]string{"/proc/1/exe", strconv.FormatInt(seconds, 10)}, args...)
}

// execWithClock is a process that becomes the command in its arguments, which follow the offset. It lets another process
// trace it, which replaces the clock at every exec.
func execWithClock() error {
	args := os.Args[2:]
	path, err := exec.LookPath(args[0])
	if err != nil {
		return err
	}
	attached, theirs, err := os.Pipe()
	if err != nil {
		return err
	}
	// Between the two is one that ends at once, so that the tracer is nobody's child.
	launcher := exec.Command("/proc/self/exe", strconv.Itoa(os.Getpid()), os.Args[1])
	launcher.Env = []string{roleVar + "=launchTracer"}
	launcher.Stdout = theirs
	if err := launcher.Run(); err != nil {
		return fmt.Errorf("start the tracer: %w", err)
	}
	_ = theirs.Close()
	if said, err := io.ReadAll(attached); err != nil || string(said) != "attached" {
		return fmt.Errorf("the tracer has ended: %w", cmp.Or(err, io.ErrUnexpectedEOF))
	}
	env := slices.DeleteFunc(os.Environ(), func(e string) bool { return strings.HasPrefix(e, roleVar+"=") })
	return fmt.Errorf("exec %s: %w", path, unix.Exec(path, args, env))
}

func launchTracer() error {
	tracer := exec.Command("/proc/self/exe", os.Args[1:]...)
	tracer.Env = []string{roleVar + "=tracer"}
	tracer.Stdout = os.Stdout
	tracer.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return tracer.Start()
}

// trace replaces the clock of a process at each exec, until it runs something else than the front of edgebox, which
// becomes edgebox-node or kubectl.
func trace() error {
	runtime.LockOSThread() // the tracer is a thread
	pid, err := strconv.Atoi(os.Args[1])
	if err != nil {
		return err
	}
	seconds, err := strconv.ParseInt(os.Args[2], 10, 64)
	if err != nil {
		return err
	}
	if err := seize(pid); err != nil {
		return err
	}
	_, err = os.Stdout.WriteString("attached")
	if err := errors.Join(err, os.Stdout.Close()); err != nil {
		return err
	}
	for {
		var status unix.WaitStatus
		tid, err := unix.Wait4(-1, &status, unix.WALL, nil)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil: // nobody is left
			return nil
		case !status.Stopped():
			continue
		}
		signal := status.StopSignal()
		switch event := int(status >> 16); event {
		case unix.PTRACE_EVENT_EXEC:
			if err := replaceClock(pid, seconds); err != nil {
				return errors.Join(err, unix.Kill(pid, unix.SIGKILL)) // rather than with the right time
			}
			if exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); err != nil || filepath.Base(exe) != filepath.Base(Binary) {
				return unix.PtraceDetach(pid)
			}
			signal = 0
		case 0:
		default:
			signal = 0
		}
		_ = unix.PtraceCont(tid, int(signal)) // fails for a thread that was killed
	}
}

// seize attaches the thread to all threads of a process, which go on.
func seize(pid int) error {
	seized := make(map[int]bool)
	for {
		tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
		if err != nil {
			return err
		}
		before := len(seized)
		for _, task := range tasks {
			tid, err := strconv.Atoi(task.Name())
			if err != nil || seized[tid] {
				continue
			}
			_, _, errno := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_SEIZE, uintptr(tid), 0,
				unix.PTRACE_O_TRACEEXEC|unix.PTRACE_O_TRACECLONE, 0, 0)
			if errno != 0 && errno != unix.EPERM && errno != unix.ESRCH { // traced since its birth, or gone
				return fmt.Errorf("attach to thread %d: %w", tid, errno)
			}
			seized[tid] = true
		}
		if len(seized) == before {
			return nil
		}
	}
}

// replaceClock writes another clock_gettime into the vDSO of a process that has stopped.
func replaceClock(pid int, seconds int64) error {
	start, err := vdso(pid)
	if err != nil {
		return err
	}
	memory, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", pid), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { _ = memory.Close() }()
	image := make([]byte, 16<<10)
	n, err := memory.ReadAt(image, start)
	if n == 0 {
		return fmt.Errorf("read the vDSO: %w", err)
	}
	file, err := elf.NewFile(bytes.NewReader(image[:n]))
	if err != nil {
		return fmt.Errorf("the vDSO: %w", err)
	}
	symbols, err := file.DynamicSymbols()
	if err != nil {
		return fmt.Errorf("the vDSO: %w", err)
	}
	code := clockCode(seconds)
	for _, s := range symbols {
		if s.Name == "__vdso_clock_gettime" && s.Size >= uint64(len(code)) {
			_, err := memory.WriteAt(code, start+int64(s.Value))
			return err
		}
	}
	return errors.New("the vDSO has no clock_gettime that could be replaced")
}

// vdso is where the kernel has mapped the vDSO into a process.
func vdso(pid int) (int64, error) {
	vector, err := os.ReadFile(fmt.Sprintf("/proc/%d/auxv", pid))
	if err != nil {
		return 0, err
	}
	const atSysinfoEHDR = 33 // <linux/auxvec.h>
	for ; len(vector) >= 16; vector = vector[16:] {
		if binary.LittleEndian.Uint64(vector) == atSysinfoEHDR {
			return int64(binary.LittleEndian.Uint64(vector[8:])), nil
		}
	}
	return 0, errors.New("the kernel has mapped no vDSO")
}

// clockCode is clock_gettime(2) for amd64, with an offset for CLOCK_REALTIME.
func clockCode(seconds int64) []byte {
	code := []byte{
		0xb8, 228, 0, 0, 0, // mov $SYS_clock_gettime, %eax
		0x0f, 0x05, // syscall
		0x85, 0xff, // test %edi, %edi
		0x75, 13, // jne to the end
		0x48, 0xb9, // movabs $seconds, %rcx
	}
	code = binary.LittleEndian.AppendUint64(code, uint64(seconds))
	return append(code,
		0x48, 0x01, 0x0e, // add %rcx, (%rsi)
		0xc3, // ret
	)
}
