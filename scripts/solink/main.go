// Command solink makes a shared library linkable into a static executable.
//
// Debian ships libnftables as a shared library only, and a static nft is wanted:
// one file, no dynamic loader, on any distribution. solink does at build time what
// the loader does at run time: it lays the library's segments out at a fixed
// address, applies the relocations that only need that address, and leaves those
// that need a symbol to the linker, as assembly:
//
//	solink -base 0x10000000 -o nftables libnftables.so.1
//	    writes nftables.s, nftables.img (included by it) and nftables.ld
//	gcc -static -no-pie main.c nftables.s -Wl,-T,nftables.ld …
//
// Segments keep their permissions, and what the loader would make read-only after
// relocation is read-only from the start. Constructors run as they would. Thread-local
// storage and relocations that it does not know are refused.
package main

import (
	"debug/elf"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

func main() {
	base := flag.Uint64("base", 0x10000000, "address of the library; below 2 GiB, so that code can call it directly")
	out := flag.String("o", "", "`prefix` of the files to write")
	flag.Parse()
	if flag.NArg() != 1 || *out == "" {
		flag.Usage()
		os.Exit(2)
	}
	if err := link(flag.Arg(0), *out, *base); err != nil {
		fmt.Fprintf(os.Stderr, "solink %s: %v\n", flag.Arg(0), err)
		os.Exit(1)
	}
}

func link(path, out string, base uint64) error {
	lib, err := load(path, base)
	if err != nil {
		return err
	}
	if err := os.WriteFile(out+".img", lib.image, 0o644); err != nil {
		return err
	}
	name := filepath.Base(out)
	if err := os.WriteFile(out+".s", lib.assembly(name, out+".img"), 0o644); err != nil {
		return err
	}
	return os.WriteFile(out+".ld", lib.script(name), 0o644)
}

// library is a shared library at its final address.
type library struct {
	base     uint64
	arch     arch
	image    []byte // memory from base on
	ranges   []segment
	imported map[uint64]string // words that the linker fills in: expression by offset
	weak     []string
	exported map[string]uint64 // offset by name

	constructors []uint64 // where the image has their addresses
}

// segment is a part of the image with one permission.
type segment struct {
	start, end uint64
	flags      string // of an assembly section
}

// arch is what differs between machines.
type arch struct {
	word      string // assembly directive of an address
	size      uint64 // of an address
	relative  uint32 // relocation: the address of the library plus addend
	symbolic  []uint32
	explicit  bool // addends are in the relocation, not in the image
	relocSize uint64
}

var arches = map[elf.Machine]arch{
	elf.EM_X86_64: {
		word: ".quad", size: 8, explicit: true, relocSize: 24,
		relative: uint32(elf.R_X86_64_RELATIVE),
		symbolic: []uint32{uint32(elf.R_X86_64_64), uint32(elf.R_X86_64_GLOB_DAT), uint32(elf.R_X86_64_JMP_SLOT)},
	},
	elf.EM_AARCH64: {
		word: ".quad", size: 8, explicit: true, relocSize: 24,
		relative: uint32(elf.R_AARCH64_RELATIVE),
		symbolic: []uint32{uint32(elf.R_AARCH64_ABS64), uint32(elf.R_AARCH64_GLOB_DAT), uint32(elf.R_AARCH64_JUMP_SLOT)},
	},
	elf.EM_ARM: {
		word: ".long", size: 4, relocSize: 8,
		relative: uint32(elf.R_ARM_RELATIVE),
		symbolic: []uint32{uint32(elf.R_ARM_ABS32), uint32(elf.R_ARM_GLOB_DAT), uint32(elf.R_ARM_JUMP_SLOT)},
	},
}

func load(path string, base uint64) (*library, error) {
	f, err := elf.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	a, ok := arches[f.Machine]
	if !ok {
		return nil, fmt.Errorf("machine %v is not supported", f.Machine)
	}
	lib := &library{base: base, arch: a, imported: map[uint64]string{}, exported: map[string]uint64{}}
	if err := lib.layOut(f); err != nil {
		return nil, err
	}
	if err := lib.relocate(f); err != nil {
		return nil, err
	}
	return lib, nil
}

func (lib *library) layOut(f *elf.File) error {
	if s := f.Section(".init_array"); s != nil {
		for at := s.Addr; at < s.Addr+s.Size; at += lib.arch.size {
			lib.constructors = append(lib.constructors, at)
		}
	}
	var relro uint64 // end of what is read-only after relocation
	for _, p := range f.Progs {
		switch p.Type {
		case elf.PT_TLS:
			return errors.New("it has thread-local storage")
		case elf.PT_GNU_RELRO:
			relro = p.Vaddr + p.Memsz
		case elf.PT_LOAD:
			if end := p.Vaddr + p.Memsz; end > uint64(len(lib.image)) {
				lib.image = append(lib.image, make([]byte, end-uint64(len(lib.image)))...)
			}
			if _, err := p.ReadAt(lib.image[p.Vaddr:p.Vaddr+p.Filesz], 0); err != nil {
				return err
			}
		}
	}
	for _, p := range f.Progs {
		if p.Type != elf.PT_LOAD || onlyForLoader(f, p) {
			continue
		}
		start, end := p.Vaddr, p.Vaddr+p.Memsz
		switch {
		case p.Flags&elf.PF_X != 0:
			lib.ranges = append(lib.ranges, segment{start, end, "ax"})
		case p.Flags&elf.PF_W == 0:
			lib.ranges = append(lib.ranges, segment{start, end, "a"})
		default:
			// Where pages may be as big as the alignment, a smaller step cannot be
			// a change of permission.
			if relro > start && relro < end && relro%p.Align == 0 {
				lib.ranges = append(lib.ranges, segment{start, relro, "a"})
				start = relro
			}
			lib.ranges = append(lib.ranges, segment{start, end, "aw"})
		}
	}
	return nil
}

// onlyForLoader tells whether a segment holds symbol and relocation tables and
// nothing that code reads.
func onlyForLoader(f *elf.File, p *elf.Prog) bool {
	for _, s := range f.Sections {
		if s.Flags&elf.SHF_ALLOC == 0 || s.Addr < p.Vaddr || s.Addr >= p.Vaddr+p.Memsz {
			continue
		}
		switch s.Type {
		case elf.SHT_PROGBITS, elf.SHT_NOBITS, elf.SHT_INIT_ARRAY, elf.SHT_FINI_ARRAY, elf.SHT_DYNAMIC:
			return false
		}
	}
	return true
}

func (lib *library) relocate(f *elf.File) error {
	symbols, err := f.DynamicSymbols()
	if err != nil {
		return err
	}
	for _, s := range symbols {
		switch {
		case s.Section == elf.SHN_UNDEF && elf.ST_BIND(s.Info) == elf.STB_WEAK:
			lib.weak = append(lib.weak, s.Name)
		case s.Section < elf.SHN_LORESERVE && elf.ST_BIND(s.Info) == elf.STB_GLOBAL && s.Section != elf.SHN_UNDEF:
			lib.exported[s.Name] = s.Value
		}
	}
	for _, s := range f.Sections {
		if s.Flags&elf.SHF_ALLOC == 0 || s.Type != elf.SHT_RELA && s.Type != elf.SHT_REL {
			continue
		}
		raw, err := s.Data()
		if err != nil {
			return err
		}
		for r := range slices.Chunk(raw, int(lib.arch.relocSize)) {
			if err := lib.apply(f, r, symbols); err != nil {
				return err
			}
		}
	}
	return nil
}

func (lib *library) apply(f *elf.File, r []byte, symbols []elf.Symbol) error {
	var at, addend uint64
	var typ, sym uint32
	if lib.arch.size == 8 {
		at = f.ByteOrder.Uint64(r)
		info := f.ByteOrder.Uint64(r[8:])
		typ, sym = uint32(info), uint32(info>>32)
	} else {
		at = uint64(f.ByteOrder.Uint32(r))
		info := f.ByteOrder.Uint32(r[4:])
		typ, sym = info&0xff, info>>8
	}
	switch {
	case lib.arch.explicit:
		addend = f.ByteOrder.Uint64(r[16:])
	case lib.arch.size == 4 && typ != uint32(elf.R_ARM_JUMP_SLOT): // there it is the lazy stub
		addend = uint64(f.ByteOrder.Uint32(lib.image[at:]))
	}
	switch {
	case typ == lib.arch.relative && lib.arch.size == 8:
		f.ByteOrder.PutUint64(lib.image[at:], lib.base+addend)
	case typ == lib.arch.relative:
		f.ByteOrder.PutUint32(lib.image[at:], uint32(lib.base+addend))
	case slices.Contains(lib.arch.symbolic, typ) && sym > 0:
		lib.imported[at] = fmt.Sprintf("%s+%d", symbols[sym-1].Name, addend)
	default:
		return fmt.Errorf("relocation type %d at %#x is not supported", typ, at)
	}
	return nil
}

func sectionName(name string, i int) string { return fmt.Sprintf(".%s.%d", name, i) }

func (lib *library) assembly(name, image string) []byte {
	var b strings.Builder
	for _, s := range lib.weak {
		fmt.Fprintf(&b, ".weak %s\n", s)
	}
	for _, s := range slices.Sorted(maps.Keys(lib.exported)) {
		fmt.Fprintf(&b, ".globl %s\n.set %[1]s, %#x\n", s, lib.base+lib.exported[s])
	}
	b.WriteString(".section .init_array, \"aw\", %init_array\n")
	for _, at := range lib.constructors {
		fmt.Fprintf(&b, ".incbin %q, %d, %d\n", image, at, lib.arch.size)
	}
	imports := slices.Sorted(maps.Keys(lib.imported))
	for i, seg := range lib.ranges {
		fmt.Fprintf(&b, ".section %s, \"%s\", %%progbits\n", sectionName(name, i), seg.flags)
		at := seg.start
		for _, imp := range imports {
			if imp < seg.start || imp >= seg.end {
				continue
			}
			if imp > at {
				fmt.Fprintf(&b, ".incbin %q, %d, %d\n", image, at, imp-at)
			}
			fmt.Fprintf(&b, "%s %s\n", lib.arch.word, lib.imported[imp])
			at = imp + lib.arch.size
		}
		if at < seg.end {
			fmt.Fprintf(&b, ".incbin %q, %d, %d\n", image, at, seg.end-at)
		}
	}
	b.WriteString(".section .note.GNU-stack, \"\", %progbits\n")
	return []byte(b.String())
}

// script adds the segments to the linker's own script.
func (lib *library) script(name string) []byte {
	var b strings.Builder
	b.WriteString("SECTIONS {\n")
	for i, seg := range lib.ranges {
		s := sectionName(name, i)
		fmt.Fprintf(&b, "  %s %#x : { KEEP(*(%[1]s)) }\n", s, lib.base+seg.start)
	}
	b.WriteString("}\nINSERT AFTER .bss;\n")
	return []byte(b.String())
}
