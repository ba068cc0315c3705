//! Small kernels, written as PTX, on an emulated device.

use cusim::arch::Arch;
use cusim::exec::{self, Checks, Counters, LaunchConfig, Options};
use cusim::fault::Fault;
use cusim::memory::GlobalMemory;
use cusim::program::{LoadError, Program};
use cusim::ptx;

/// A module with one device's memory.
pub struct Machine {
    pub program: Program,
    pub memory: GlobalMemory,
    pub options: Options,
    /// All blocks at once.
    pub cooperative: bool,
    /// Operations that no launch comes after.
    pub unordered: Vec<u32>,
    globals: Vec<u64>,
}

/// The program of a module.
pub fn load(text: &str) -> Result<Program, LoadError> {
    let module = ptx::parse(text).unwrap_or_else(|error| panic!("{error}\n{}", numbered(text)));
    Program::load(&module)
}

fn numbered(text: &str) -> String {
    let lines = text.lines().enumerate();
    lines
        .map(|(at, line)| format!("{:4} {line}\n", at + 1))
        .collect()
}

/// A module of one kernel `k` that takes `params` 64-bit numbers, by the names p0, p1 and so on, which
/// are loaded to %p0, %p1….
pub fn kernel(params: usize, body: &str) -> String {
    let list: Vec<String> = (0..params).map(|at| format!(".param .u64 p{at}")).collect();
    let loads: String = (0..params)
        .map(|at| format!("ld.param.u64 %p{at}, [p{at}];\n"))
        .collect();
    format!(
        ".version 8.0\n.target sm_80\n.address_size 64\n\
         .visible .entry k({})\n{{\n\
         .reg .b64 %p<8>; .reg .b64 %rd<40>; .reg .b32 %r<60>; .reg .f32 %f<40>; .reg .f64 %fd<20>;\n\
         .reg .b16 %h<20>; .reg .pred %q<20>;\n{loads}{body}\nret;\n}}\n",
        list.join(", ")
    )
}

impl Machine {
    pub fn new(text: &str) -> Self {
        let program = load(text).unwrap_or_else(|error| panic!("{error}\n{}", numbered(text)));
        let mut memory = GlobalMemory::new(1 << 30);
        let mut globals = Vec::new();
        for variable in program.globals() {
            let address = memory.alloc(variable.size.max(1), "a module variable");
            globals.push(address.expect("room"));
        }
        for (variable, &address) in program.globals().iter().zip(&globals) {
            let mut bytes = variable.bytes.clone();
            for &(at, target, addend) in &variable.relocations {
                let value = globals[target].wrapping_add_signed(addend).to_le_bytes();
                bytes[at as usize..at as usize + 8].copy_from_slice(&value);
            }
            memory.write(address, &bytes).expect("inside");
        }
        Self {
            program,
            memory,
            options: Options::default(),
            cooperative: false,
            unordered: Vec::new(),
            globals,
        }
    }

    /// The kernel `k` of a body.
    pub fn of(params: usize, body: &str) -> Self {
        Self::new(&kernel(params, body))
    }

    pub fn seed(mut self, seed: u64) -> Self {
        self.options.seed = seed;
        self
    }

    pub fn checks(mut self, checks: Checks) -> Self {
        self.options.checks = checks;
        self
    }

    pub fn upload<T: Copy, const N: usize>(&mut self, data: &[T], bytes: fn(T) -> [u8; N]) -> u64 {
        let bytes: Vec<u8> = data.iter().flat_map(|&x| bytes(x)).collect();
        let address = self
            .memory
            .alloc(bytes.len() as u64, "cuMemAlloc")
            .expect("room");
        self.memory.write(address, &bytes).expect("inside");
        address
    }

    pub fn alloc(&mut self, bytes: u64) -> u64 {
        self.memory.alloc(bytes, "cuMemAlloc").expect("room")
    }

    pub fn download(&self, address: u64, bytes: usize) -> Vec<u8> {
        let mut out = vec![0; bytes];
        self.memory.read(address, &mut out).expect("inside");
        out
    }

    pub fn words(&self, address: u64, count: usize) -> Vec<u32> {
        let bytes = self.download(address, count * 4);
        bytes
            .as_chunks()
            .0
            .iter()
            .map(|b| u32::from_le_bytes(*b))
            .collect()
    }

    pub fn doubles(&self, address: u64, count: usize) -> Vec<u64> {
        let bytes = self.download(address, count * 8);
        bytes
            .as_chunks()
            .0
            .iter()
            .map(|b| u64::from_le_bytes(*b))
            .collect()
    }

    /// Launches kernel `name` with a parameter buffer.
    pub fn launch_named(
        &mut self,
        name: &str,
        (grid, block, shared): (u32, u32, u32),
        params: &[u8],
    ) -> Result<Counters, Box<Fault>> {
        let id = self.program.kernel(name).expect("the kernel");
        let config = LaunchConfig {
            grid: [grid, 1, 1],
            block: [block, 1, 1],
            dynamic_shared: shared,
            params,
            global_addresses: &self.globals,
            arch: Arch::of(80).expect("a model"),
            options: &self.options,
            cooperative: self.cooperative,
            unordered: &self.unordered,
        };
        exec::launch(&self.program, id, &mut self.memory, &config)
    }

    /// Launches kernel `k` with 64-bit parameters.
    pub fn launch(&mut self, block: u32, params: &[u64]) -> Result<Counters, Box<Fault>> {
        let params: Vec<u8> = params.iter().flat_map(|p| p.to_le_bytes()).collect();
        self.launch_named("k", (1, block, 0), &params)
    }
}

/// What an instruction gives for each of these operands: `body` takes %r0, %r1, %r2 (or %rd0…) and leaves
/// its result in %r9 (or %rd9). Widths in bits by operand, then of the result.
pub fn evaluate(body: &str, widths: &[u32], result: u32, cases: &[Vec<u64>]) -> Vec<u64> {
    let reg = |bits: u32, at: usize| match bits {
        64 => format!("%rd{at}"),
        16 => format!("%h{at}"),
        _ => format!("%r{at}"),
    };
    let mut text = String::from(
        "mov.u32 %r50, %tid.x; mov.u32 %r51, %ctaid.x; mov.u32 %r52, %ntid.x;\n\
         mad.lo.u32 %r50, %r51, %r52, %r50;\n",
    );
    text += &format!("mad.wide.u32 %rd30, %r50, {}, %p0;\n", 8 * widths.len());
    for (at, &bits) in widths.iter().enumerate() {
        text += &format!("ld.global.b{bits} {}, [%rd30+{}];\n", reg(bits, at), 8 * at);
    }
    text += body;
    text += "\nmad.wide.u32 %rd31, %r50, 8, %p1;\n";
    text += &format!("st.global.b{result} [%rd31], {};", reg(result, 9));
    let mut machine = Machine::of(2, &text);
    let count = cases.len().next_multiple_of(32);
    let mut input: Vec<u64> = cases.iter().flatten().copied().collect();
    input.resize(count * widths.len(), 0);
    let source = machine.upload(&input, u64::to_le_bytes);
    let target = machine.upload(&vec![0u64; count], u64::to_le_bytes);
    let params: Vec<u8> = [source, target]
        .iter()
        .flat_map(|p| p.to_le_bytes())
        .collect();
    machine
        .launch_named("k", (count as u32 / 32, 32, 0), &params)
        .unwrap_or_else(|fault| panic!("{fault}"));
    let mut results = machine.doubles(target, count);
    results.truncate(cases.len());
    results
}
