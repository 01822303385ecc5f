"""The server's page in headless Chromium, by keyboard where a person would: page.py FATHOM MODEL FOLDER PLAIN CALIBRATED [PICTURES].
MODEL is routed and has learned to write HTML, PLAIN is slow enough to be stopped. Prints TAP lines; screenshots go to the folder PICTURES."""
import os
import sys
import time

from selenium import webdriver
from selenium.webdriver import ActionChains
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

import served
from served import Server, check

PLAIN, CALIBRATED = sys.argv[4:6]
PICTURES = sys.argv[6] if len(sys.argv) > 6 else None
PROMPT = "Once <b>upon</b> <script>alert(1)</script>\nline"

options = webdriver.ChromeOptions()
options.binary_location = "/usr/bin/chromium"
for flag in ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1280,1000"]:
    options.add_argument(flag)
options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
driver = webdriver.Chrome(service=Service("/usr/bin/chromedriver"), options=options)


def find(id):
    return driver.find_element(By.ID, id)


def text(id):
    return driver.execute_script("return document.getElementById(arguments[0]).textContent", id)


def within(seconds, condition):
    until = time.time() + seconds
    while not condition() and time.time() < until:
        time.sleep(0.02)
    return condition()


def press(*keys):
    """To whatever has the focus."""
    ActionChains(driver).send_keys(*keys).perform()


def generate():
    ActionChains(driver).key_down(Keys.CONTROL).send_keys(Keys.ENTER).key_up(Keys.CONTROL).perform()


def fill(name, value):
    field = driver.find_element(By.NAME, name)
    field.clear()
    field.send_keys(value)


def finished():
    return text("go") == "Generate" and (text("status").startswith("Done") or text("error"))


def console():
    """What the browser complains of. That an answer has a status such as 400 it tells itself; the page tells it too."""
    return [e for e in driver.get_log("browser") if e["level"] in ("SEVERE", "WARNING") and e["source"] != "network"]


def open_page(s):
    driver.get(f"http://127.0.0.1:{s.port}/")
    within(10, lambda: text("model").strip() or text("error"))


def picture(name):
    """On a screen and on a phone: nothing may stand out at the side."""
    for scheme in ("light", "dark"):
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
        for width, height in ((1000, 900), (390, 844)):
            driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                                   {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500})
            check(f"{name} at {width} pixels fits", driver.execute_script("return document.documentElement.scrollWidth <= innerWidth"))
            if PICTURES:
                driver.save_screenshot(os.path.join(PICTURES, f"{name}-{scheme}-{width}.png"))
    driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def answers(s):
    open_page(s)
    check("the prompt has the focus", driver.execute_script("return document.activeElement.id") == "prompt")
    check("the model is told", text("model").startswith("run: ") and "2 of them routed" in text("model"), text("model"))
    check("no budget without calibration", not find("budget").is_displayed())
    press(PROMPT)
    fill("max_tokens", "300")
    fill("seed", "7")
    fill("temperature", "0.5")
    driver.execute_script("window.pieces = 0; new MutationObserver(() => pieces++).observe(document.getElementById('answer'), {childList: true})")
    generate()
    check("an answer", within(60, finished) and not text("error"), text("error"))
    pieces = driver.execute_script("return pieces")
    check("which came piece by piece", pieces > 2, pieces)
    whole = s.complete(prompt=PROMPT, max_tokens=300, seed=7, temperature=0.5, routing=True)[1]["choices"][0]
    check("the answer is that of one whole request", text("answer") == whole["text"], (text("answer"), whole))
    check("an answer of HTML", "<b>" in whole["text"] or "<img" in whole["text"], whole["text"])
    check("HTML is text", driver.execute_script("return document.querySelectorAll('#answer :not(span)').length") == 0 and
          driver.execute_script("return document.images.length") == 0)
    spans = driver.execute_script("return [...document.querySelectorAll('#answer span')].map(s => [s.className, s.title])")
    spans = spans[:len(whole["depth_before"])]
    wanted = [["tint" if d else "none", f"{d} of 2 routed blocks"] for d in whole["depth_before"][1:]]
    check("a token has the depth that the next one tells", spans[:-1] == wanted, list(zip(spans, wanted))[:5])
    check("some are routed, some are not", len({w[0] for w in wanted}) == 2, wanted)
    check("the last token's is not known", spans[-1] == ["", ""], spans[-1])
    keys = driver.execute_script("return [...document.querySelectorAll('#legend .key')].map(k => k.textContent)")
    check("a legend", find("legend").is_displayed() and keys == ["0", "1", "2"], keys)
    check("speed", all(w in text("speed") for w in ("first token after", "300 tokens,", "tokens/s", "% routed")), text("speed"))
    driver.execute_script("arguments[0].focus()", find("answer"))
    press(Keys.HOME, Keys.ARROW_RIGHT)
    check("arrow keys read tokens", text("info").startswith("token 2 of 300, ") and wanted[1][1] in text("info"), text("info"))
    press(Keys.END)
    check("to the last", text("info").startswith("token 300 of 300, ") and "not told" in text("info"), text("info"))
    press(Keys.HOME)


def by_tab(s):
    open_page(s)
    press("a", Keys.TAB)
    check("Tab goes to the button", driver.execute_script("return document.activeElement.id") == "go")
    check("which shows it", driver.execute_script("return getComputedStyle(document.activeElement).outlineStyle") == "solid")
    press(Keys.ENTER)
    check("Enter generates", within(30, finished) and text("answer"), text("error"))
    seen = set()
    for _ in range(14):
        press(Keys.TAB)
        seen.add(driver.execute_script("return document.activeElement.name || document.activeElement.id || document.activeElement.tagName"))
    wanted = {"max_tokens", "temperature", "top_p", "top_k", "min_p", "seed", "stop", "answer", "SUMMARY"}
    check("Tab reaches all", wanted <= seen, seen)
    named = driver.execute_script("return [...document.querySelectorAll('input, textarea')].every(e => e.labels.length > 0)")
    check("every field has a label", named)


def stops():
    s = Server(model=PLAIN)
    for how in (lambda: press(Keys.ESCAPE), lambda: find("go").click()):
        open_page(s)
        press("line")
        fill("max_tokens", "4000")
        generate()
        check("a long answer begins", within(20, lambda: text("answer") and s.metric("fathom_sequences_active") == 1) and text("go") == "Stop")
        how()
        check("it stops", within(5, lambda: text("status") == "Stopped." and text("go") == "Generate"), text("status"))
        check("the server too", s.wait_metric("fathom_sequences_active", 0, 5) and s.metric("fathom_generated_tokens_total") < 4000)
        check("what came stays", text("answer") and not text("error"), text("error"))
    fill("max_tokens", "3")
    generate()
    check("and it goes on after a stop", within(20, finished) and "3 tokens" in text("speed"), text("speed"))
    check("a plain model has no colours and no legend", not find("legend").is_displayed() and
          not driver.find_elements(By.CSS_SELECTOR, "#answer span.tint, #answer span.none"))
    s.stop()


def settings(s):
    open_page(s)
    for name, value, word in (("temperature", "5", "temperature: 5"), ("seed", "x", 'seed: "x"'), ("max_tokens", "-1", "max_tokens: -1")):
        before = driver.find_element(By.NAME, name).get_attribute("value")
        find("prompt").clear()
        find("prompt").send_keys("line")
        fill(name, value)
        generate()
        check(f"{name} out of range is told", within(10, lambda: word in text("error")) and text("go") == "Generate", text("error"))
        fill(name, before)
    find("prompt").clear()
    generate()
    check("an empty prompt too", within(10, lambda: "empty" in text("error")), text("error"))
    find("prompt").send_keys("line")
    fill("temperature", "0")
    generate()
    check("an error goes when an answer comes", within(30, finished) and text("answer") and not text("error"), text("error"))
    first = text("answer")
    find("stop").send_keys("@\n" + first[3:5].replace("\n", "\\n"))
    generate()
    whole = s.complete(prompt="line", max_tokens=128, temperature=0, stop=["@", first[3:5]])[1]["choices"][0]["text"]
    check("stop texts", within(30, finished) and text("answer") == whole and len(whole) < 5, (text("answer"), whole))


def keys():
    s = Server("--api-key", "secret", "--model-name", "run")
    open_page(s)
    check("a key is asked for", find("key").is_displayed() and "key" in text("error"), text("error"))
    check("and has the focus", within(5, lambda: driver.execute_script("return document.activeElement.id") == "key"))
    press("wrong", Keys.ENTER)
    time.sleep(0.3)
    check("a wrong key", find("key").is_displayed() and text("error"))
    check("the key's field has the focus again", driver.execute_script("return document.activeElement.id") == "key")
    ActionChains(driver).key_down(Keys.CONTROL).send_keys("a").key_up(Keys.CONTROL).send_keys("secret", Keys.ENTER).perform()
    check("the key", within(10, lambda: not find("key").is_displayed()) and text("model").startswith("run: ") and not text("error"), text("error"))
    press("line")
    generate()
    check("an answer with the key", within(30, finished) and text("answer"), text("error"))
    check("the key is kept nowhere", driver.execute_script("return localStorage.length + sessionStorage.length + document.cookie.length") == 0)
    s.stop()
    generate()
    check("a server that is gone is told", within(10, lambda: "no answer from the server" in text("error")), text("error"))


def budgets():
    s = Server(model=CALIBRATED)
    known = s.ask("GET", "/v1/models")[1]["data"][0]["budgets"]
    check("a calibrated model has budgets", len(known) > 1 and known == sorted(known), known)
    open_page(s)
    check("and a field for them", find("budget").is_displayed() and f"{known[0]:g} to {known[-1]:g}" in text("budget"), text("budget"))
    press("line")
    fill("budget", str(known[0]))
    generate()
    check("an answer by a budget", within(30, finished) and text("answer") and not text("error"), text("error"))
    picture("calibrated")
    fill("budget", "0.999")
    generate()
    check("one outside of them is told", within(10, lambda: "budget: 0.999" in text("error")), text("error"))
    picture("error")
    s.stop()


def main():
    s = Server()
    for part in (answers, by_tab, settings):
        part(s)
        if part is answers:
            picture("answer")
        check(f"{part.__name__}: nothing on the console", not (seen := console()), seen)
    s.stop()
    for part in (stops, keys, budgets):
        part()
        check(f"{part.__name__}: nothing on the console", not (seen := console()), seen)
    return served.failures > 0


try:
    code = main()
finally:
    driver.quit()
sys.exit(code)
