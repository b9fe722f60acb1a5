//! The stepper on a whole terminal: the trace, the state of every layer, what comes next.

use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Style};
use ratatui::text::{Line, Text};
use ratatui::widgets::{Block, Paragraph};
use ratatui::{DefaultTerminal, Frame};

use super::{HELP, Stepper};
use crate::lab::{LabError, Scenario};

const KEYS: &str =
    "→ next  ← back  PgDn 20 on  PgUp 20 back  ↑↓ scroll  Enter command, help  Esc quit";

/// Steps through a run on a terminal, by keys and by the commands of [`super::step`].
///
/// # Errors
/// [`LabError`].
pub fn terminal(scenario: &Scenario) -> Result<(), LabError> {
    let mut view = View {
        stepper: Stepper::new(scenario)?,
        shown: HELP.to_owned(),
        typed: String::new(),
        up: 0,
    };
    let mut terminal = ratatui::try_init()?;
    let result = view.run(&mut terminal);
    ratatui::try_restore()?;
    result
}

struct View<'a> {
    stepper: Stepper<'a>,
    /// Everything the stepper has answered.
    shown: String,
    typed: String,
    /// How many lines above the end are looked at.
    up: usize,
}

impl View<'_> {
    fn run(&mut self, terminal: &mut DefaultTerminal) -> Result<(), LabError> {
        loop {
            terminal.draw(|frame| self.draw(frame))?;
            let Event::Key(key) = event::read()? else {
                continue;
            };
            if key.kind == KeyEventKind::Release {
                continue;
            }
            let control = key.modifiers.contains(KeyModifiers::CONTROL);
            let goes_on = match key.code {
                KeyCode::Esc => false,
                KeyCode::Char('c') if control => false,
                KeyCode::Right => self.say("n")?,
                KeyCode::Left => self.say("b")?,
                KeyCode::PageDown => self.say("c 20")?,
                KeyCode::PageUp => self.say("b 20")?,
                KeyCode::Up => self.scroll(1),
                KeyCode::Down => self.scroll(-1),
                KeyCode::Enter => {
                    let typed = std::mem::take(&mut self.typed);
                    self.say(&typed)?
                }
                KeyCode::Backspace => {
                    self.typed.pop();
                    true
                }
                KeyCode::Char(c) => {
                    self.typed.push(c);
                    true
                }
                _ => true,
            };
            if !goes_on {
                return Ok(());
            }
        }
    }

    fn say(&mut self, command: &str) -> Result<bool, LabError> {
        let mut out = Vec::new();
        let goes_on = self.stepper.command(command, &mut out)?;
        self.shown.push_str(&String::from_utf8_lossy(&out));
        self.up = 0;
        Ok(goes_on)
    }

    fn scroll(&mut self, by: isize) -> bool {
        self.up = self.up.saturating_add_signed(by);
        true
    }

    fn draw(&self, frame: &mut Frame<'_>) {
        let rows = Layout::vertical([
            Constraint::Fill(3),
            Constraint::Fill(1),
            Constraint::Length(3),
        ]);
        let [middle, next, prompt] = rows.areas(frame.area());
        let columns = Layout::horizontal([Constraint::Fill(3), Constraint::Fill(2)]);
        let [trace, states] = columns.areas(middle);

        let lines: Vec<&str> = self.shown.lines().collect();
        let height = usize::from(trace.height.saturating_sub(2)).max(1);
        let end = lines
            .len()
            .saturating_sub(self.up)
            .max(height.min(lines.len()));
        let visible = &lines[end.saturating_sub(height)..end];
        let at = self.stepper.world.now().as_micros();
        let title = format!(" step {} at {at} us ", self.stepper.taken);
        let text: Text<'_> = visible.iter().map(|line| colour(line)).collect();
        let block = Block::bordered().title(title);
        frame.render_widget(Paragraph::new(text).block(block), trace);

        let all = self.stepper.describe_all().concat();
        let block = Block::bordered().title(" every layer ");
        frame.render_widget(Paragraph::new(all).block(block), states);

        let words = self.stepper.next_in_words();
        let block = Block::bordered().title(" next ");
        frame.render_widget(Paragraph::new(words).block(block), next);

        let typed = format!("> {}", self.typed);
        let block = Block::bordered().title(KEYS);
        frame.render_widget(Paragraph::new(typed).block(block), prompt);
    }
}

fn colour(line: &str) -> Line<'_> {
    let colours = [
        (" state ", Color::Green),
        (" capsule ", Color::Cyan),
        (" frame ", Color::Cyan),
        (" error ", Color::Red),
        (" dropped ", Color::Red),
        (" armed ", Color::DarkGray),
    ];
    let found = colours.iter().find(|(words, _)| line.contains(words));
    let style = found.map_or(Style::new(), |(_, colour)| Style::new().fg(*colour));
    Line::styled(line, style)
}
