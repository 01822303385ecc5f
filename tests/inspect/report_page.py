"""Opens a page of `fathom inspect --html` in headless Chromium: chooses a block, hovers and walks tokens, reads weights and losses
against `fathom inspect --json`, and wants no console error. report_page.py PAGE JSON [SCREENSHOT]"""
import json
import os
import sys
import time

from selenium import webdriver
from selenium.webdriver import ActionChains
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

page, expected = sys.argv[1], json.load(open(sys.argv[2]))


def want(what, name):
    if not what:
        sys.exit(f"{name}: {driver.find_element(By.ID, 'info').text}")


options = webdriver.ChromeOptions()
options.binary_location = "/usr/bin/chromium"
for flag in ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1280,1500"]:
    options.add_argument(flag)
options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
driver = webdriver.Chrome(service=Service("/usr/bin/chromedriver"), options=options)
try:
    driver.get("file://" + os.path.abspath(page))
    info = driver.find_element(By.ID, "info")
    spans = driver.find_elements(By.CSS_SELECTOR, "#text span")
    want(len(spans) == len(expected["tokens"]), "as many tokens as the text has")
    layer = max(expected["layers"], key=lambda l: len(l["selected"]))
    button, last = (driver.find_element(By.CSS_SELECTOR, f"button[data-block='{l['layer']}']") for l in (layer, expected["layers"][-1]))
    button.click()
    want(button.get_attribute("aria-pressed") == "true", "a click chooses the block")
    routed, weight = layer["selected"][-1], layer["weights"][-1]
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", spans[routed])
    ActionChains(driver).move_to_element(spans[routed]).perform()
    want(f"token {routed}," in info.text and f"block {layer['layer']}: weight {weight:.4f}" in info.text, "hovering reads the weight")
    want(f"loss {expected['loss'][routed]:.3f}" in info.text, "and the loss")
    want("rgba" in spans[routed].get_attribute("style"), "a routed token is coloured")
    other = next(i for i in range(len(spans)) if i not in layer["selected"])
    want(not spans[other].get_attribute("style"), "another is not")
    text = driver.find_element(By.ID, "text")
    text.send_keys(Keys.HOME)
    want("token 0," in info.text, "Home goes to the first token")
    text.send_keys(Keys.ARROW_RIGHT)
    want("token 1," in info.text, "an arrow goes on")
    text.send_keys(Keys.ARROW_DOWN)
    want(button.get_attribute("aria-pressed") == "false", "arrow down chooses another block")
    matrix = driver.find_element(By.ID, "matrix")
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", matrix)
    ActionChains(driver).move_to_element_with_offset(matrix, 0, 4 - matrix.size["height"] // 2).click().perform()
    want(last.get_attribute("aria-pressed") == "true", "a click on the map's top row chooses the last block")
    want(driver.find_elements(By.CSS_SELECTOR, "figure svg rect.routed") != [], "there are histograms")
    began = time.time()
    for i in range(20):
        driver.execute_script("point(arguments[0], true); choose(arguments[1]); draw()", i * 3 % len(spans), i % len(expected["layers"]))
    seconds = (time.time() - began) / 20
    want(seconds < 0.25, f"a choice takes {seconds:.3f} s")
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark"}]})
    dark = driver.execute_script("return getComputedStyle(document.body).backgroundColor")
    want(sum(int(x) for x in dark[4:-1].split(",")) < 200, "dark mode is dark")
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "light"}]})
    errors = [e for e in driver.get_log("browser") if e["level"] in ("SEVERE", "WARNING")]
    want(not errors, f"console: {errors}")
    if len(sys.argv) > 3:
        driver.execute_script("choose(arguments[0]); scrollTo(0, 0)", len(expected["layers"]) - 1)
        driver.save_screenshot(sys.argv[3])
    print(f"{len(spans)} tokens, {seconds * 1000:.0f} ms a choice")
finally:
    driver.quit()
