//! Processes in a lab, and what they say.

use std::io::{BufRead, BufReader, Read, Write};
use std::marker::PhantomData;
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use serde::de::DeserializeOwned;

use crate::error::Error;
use crate::lab::{FIRST_LINK, Lab, Process, SECOND_LINK, SERVER_SIDE, Space};
use crate::probe::{ElementReport, Order};

/// One of our probes.
pub(super) struct Running<T> {
    process: Process,
    out: Option<BufReader<ChildStdout>>,
    what: String,
    gives: PhantomData<T>,
}

impl<T: DeserializeOwned + Send + 'static> Running<T> {
    /// Starts one; `first`: before everything else on the processor, where the system allows that. What
    /// measures time must not wait for what is measured.
    pub(super) fn start(
        lab: &Lab,
        space: Space,
        what: &str,
        arguments: &[String],
        first: bool,
    ) -> Result<Self, Error> {
        let mut command = probe(lab, space, first)?;
        command.arg(what).args(arguments);
        let mut process = Process::start(&mut command)?;
        let out = process.child().stdout.take().map(BufReader::new);
        Ok(Self {
            process,
            out,
            what: what.to_owned(),
            gives: PhantomData,
        })
    }

    pub(super) fn wait_listening(&mut self) -> Result<(), Error> {
        let mut line = String::new();
        if let Some(out) = &mut self.out {
            out.read_line(&mut line)
                .map_err(Error::system("reading from a probe"))?;
        }
        match line.trim() {
            "\"listening\"" => Ok(()),
            said => Err(Error::Probe(format!(
                "{} does not listen: {said}",
                self.what
            ))),
        }
    }

    /// What it says at its end.
    pub(super) fn finish(mut self, limit: Duration) -> Result<T, Error> {
        let missing = || Error::Probe("no output".to_owned());
        let mut out = self.out.take().ok_or_else(missing)?;
        // Read while waiting: a pipe holds less than some say.
        let reader = thread::spawn(move || {
            let mut text = String::new();
            out.read_to_string(&mut text).map(|_| text)
        });
        let ended = self
            .process
            .wait(limit)
            .map_err(Error::system("waiting for a probe"))?;
        if ended.is_none() {
            self.process.stop();
            return Err(Error::Timeout(format!("the probe {}", self.what)));
        }
        let text = reader
            .join()
            .map_err(|_| missing())?
            .map_err(Error::system("reading from a probe"))?;
        serde_json::from_str(&text)
            .map_err(|error| Error::Probe(format!("{}: {error}: {text:?}", self.what)))
    }
}

fn probe(lab: &Lab, space: Space, first: bool) -> Result<Command, Error> {
    static CHRT: OnceLock<bool> = OnceLock::new();
    let allowed = *CHRT.get_or_init(|| {
        let tried = Command::new("chrt").args(["-f", "5", "true"]).output();
        tried.is_ok_and(|output| output.status.success())
    });
    let program = std::env::current_exe().map_err(Error::system("the path of this program"))?;
    let mut command = if first && allowed {
        let mut command = lab.command(space, "chrt");
        command.args(["-f", "5"]).arg(program);
        command
    } else {
        lab.command(space, program)
    };
    command
        .arg("probe")
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    Ok(command)
}

/// The bad network of a lab.
pub struct Element {
    /// Ends with its input.
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
    _process: Process,
}

impl Element {
    /// Puts it into the lab's router. Every path of the client leads through it.
    ///
    /// # Errors
    /// What the system says.
    pub fn start(lab: &Lab, profile: &str, seed: u64) -> Result<Self, Error> {
        let mut command = probe(lab, Space::Router, true)?;
        command.args(["element", "--profile", profile]);
        command.args(["--seed", &seed.to_string()]);
        let up = format!("{},{}", FIRST_LINK.router.0, SECOND_LINK.router.0);
        command.args(["--up", &up, "--down", SERVER_SIDE]);
        command.stdin(Stdio::piped());
        let mut process = Process::start(&mut command)?;
        let missing = || Error::Probe("no pipes".to_owned());
        let orders = process.child().stdin.take().ok_or_else(missing)?;
        let out = process.child().stdout.take().ok_or_else(missing)?;
        let mut element = Self {
            orders,
            answers: BufReader::new(out),
            _process: process,
        };
        match element.answer()?.trim() {
            "\"listening\"" => Ok(element),
            said => Err(Error::Probe(format!("the element does not run: {said}"))),
        }
    }

    fn answer(&mut self) -> Result<String, Error> {
        let mut line = String::new();
        self.answers
            .read_line(&mut line)
            .map_err(Error::system("the element"))?;
        Ok(line)
    }

    /// Tells it something, and gives what it answers.
    ///
    /// # Errors
    /// It is dead.
    pub fn order(&mut self, order: Order) -> Result<ElementReport, Error> {
        let text = serde_json::to_string(&order).map_err(|e| Error::Probe(e.to_string()))?;
        writeln!(self.orders, "{text}").map_err(Error::system("the element"))?;
        let answer = self.answer()?;
        serde_json::from_str(&answer)
            .map_err(|error| Error::Probe(format!("the element: {error}: {answer:?}")))
    }
}
